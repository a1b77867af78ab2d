"""What is wrong with the cluster's networks, in sentences: what, why, what next. Pure.

Nodes say what is wrong with themselves. Here stands what only somebody sees who hears all of
them: who does not report, who is silent for whom, whose underlay is narrower than the others',
which network runs out of addresses.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from essaim_master.control.allocator import task_addresses
from essaim_master.control.ingress_ports import no_port_left
from essaim_shared.addressing import VXLAN_OVERHEAD_BYTES
from essaim_shared.ids import NetworkId, NodeId
from essaim_shared.limits import NETWORK_PROBE_MISSES_MAX, NETWORK_REPORT_PERIOD_S
from essaim_shared.messages import NetworkProbe, NetworkReport
from essaim_shared.objects import Network
from essaim_shared.spec import PortConfig

REPORT_AGE_MAX_S = 3 * NETWORK_REPORT_PERIOD_S
CHECK_AGE_MAX_S = 3 * NETWORK_REPORT_PERIOD_S
ADDRESSES_USED_PERCENT_MAX = 90
NAMES_SHOWN_MAX = 5
_NANOSECONDS = 1_000_000_000


class Finding(msgspec.Struct, frozen=True):
    level: Literal["error", "warning"]
    """A warning is worth knowing, and nothing is broken by it yet."""
    node_id: NodeId | Literal[""]
    """Empty: of the whole cluster."""
    text: str


class ExaminedNode(msgspec.Struct, frozen=True):
    id: NodeId
    hostname: str
    address: str
    state: str
    mtu: int
    """Of its underlay; 0: not known."""
    report: NetworkReport | None
    report_age_s: float
    running: tuple[tuple[int, tuple[NetworkId, ...]], ...] = ()
    """Of each running task: since when, by the node's clock, and its networks."""

    @property
    def is_ready(self) -> bool:
        return self.state == "ready"

    @property
    def is_heard(self) -> bool:
        return self.is_ready and self.report is not None and self.report_age_s <= REPORT_AGE_MAX_S

    def age_s(self, moment_ns: int) -> float:
        """How long ago a moment of the node's own clock is, whatever the difference of clocks."""
        sent_ns = 0 if self.report is None else self.report.sent_ns
        return self.report_age_s + max(0, sent_ns - moment_ns) / _NANOSECONDS


class ExaminedNetwork(msgspec.Struct, frozen=True):
    network: Network
    addresses_used: int
    """But for those of ended tasks, which are taken when there are no others."""

    @property
    def addresses_max(self) -> int:
        return len(task_addresses(self.network))

    @property
    def used_percent(self) -> float:
        return 100 * self.addresses_used / max(1, self.addresses_max)


class UnpublishedPort(msgspec.Struct, frozen=True):
    """A port that a service asks for and has not got. Its running tasks go on without it, so
    nothing else says so."""

    service: str
    port: PortConfig
    holder: str = ""
    """The service that has it."""


def diagnose(
    nodes: Sequence[ExaminedNode],
    networks: Mapping[NetworkId, ExaminedNetwork],
    unpublished: Iterable[UnpublishedPort] = (),
) -> list[Finding]:
    """Errors first; otherwise in the order of the nodes."""
    found = [
        *(finding for node in nodes if node.is_ready for finding in _of_node(node)),
        *_silences(nodes, networks),
        *_narrow_paths(nodes, networks),
        *_underlay_mtu(nodes, networks),
        *_addresses(networks.values()),
        *map(_of_port, unpublished),
    ]
    return sorted(found, key=lambda finding: finding.level)


def _of_node(node: ExaminedNode) -> Iterable[Finding]:
    def error(text: str) -> Finding:
        return Finding("error", node.id, f"{node.hostname} {text}")

    report = node.report
    if report is None:
        yield error(
            "has not reported its networks: see that its agent runs, and that it is of this version"
        )
        return
    if node.report_age_s > REPORT_AGE_MAX_S:
        yield error(
            f"last reported its networks {node.report_age_s:.0f} s ago: see its agent's log, and "
            "whether it reaches the bus"
        )
        return
    check_age_s = node.age_s(report.checked_ns)
    if check_age_s > CHECK_AGE_MAX_S:
        since = f"for {check_age_s:.0f} s" if report.checked_ns else "yet"
        yield error(f"has not compared its tables {since}: see its agent's log")
    for problem in report.problems:
        yield error(f"says: {problem}")
    before = report.checked_ns
    assigned = {n for since_ns, its in node.running if since_ns < before for n in its}
    if report.has_overlay and len(assigned) > report.networks:
        yield error(
            f"runs tasks of {len(assigned)} networks and has {report.networks} of them: see its "
            "agent's log, and restart the agent if nothing is said there"
        )


class _Ask(msgspec.Struct, frozen=True):
    asker: ExaminedNode
    asked: ExaminedNode
    probe: NetworkProbe


def _asked(nodes: Sequence[ExaminedNode]) -> list[_Ask]:
    """All that was asked by nodes that are heard of others that are."""
    by_address = {node.address: node for node in nodes if node.is_heard}
    return [
        _Ask(node, asked, probe)
        for node in by_address.values()
        if node.report is not None
        for probe in node.report.probes
        if (asked := by_address.get(probe.node_address)) is not None
    ]


def _silences(
    nodes: Sequence[ExaminedNode], networks: Mapping[NetworkId, ExaminedNetwork]
) -> Iterable[Finding]:
    asks = _asked(nodes)
    silent = [ask for ask in asks if ask.probe.misses >= NETWORK_PROBE_MISSES_MAX]
    heard = {
        (ask.asker.id, ask.asked.id, ask.probe.network_id) for ask in asks if not ask.probe.misses
    }
    heard_of = {asked for _, asked, _ in heard}
    askers: dict[NodeId, set[NodeId]] = defaultdict(set)
    for ask in silent:
        askers[ask.asked.id].add(ask.asker.id)
    lost = {asked for asked, its in askers.items() if len(its) > 1 and asked not in heard_of}
    hostnames = {node.id: node.hostname for node in nodes}
    for node in nodes:
        if node.id in lost:
            names = _names(hostnames[asker] for asker in askers[node.id])
            yield Finding(
                "error",
                node.id,
                f"{node.hostname} answers nobody through any network (asked by {names}): see that "
                f"UDP packets of the overlay reach {node.address}, and its own report",
            )
    for ask in silent:
        # What a lost node hears of others is explained by the same.
        if ask.asked.id in lost or ask.asker.id in lost:
            continue
        network = _name(ask.probe.network_id, networks)
        times = f"{ask.probe.misses} times in a row"
        if (ask.asked.id, ask.asker.id, ask.probe.network_id) in heard:
            text = (
                f"{ask.asker.hostname} gets no answer from {ask.asked.hostname} through network "
                f"{network} ({times}), though {ask.asked.hostname} gets one from "
                f"{ask.asker.hostname}: see the packet filters of both"
            )
        else:
            text = (
                f"{ask.asker.hostname} gets no answer from {ask.asked.hostname} through network "
                f"{network} ({times}): see that UDP packets of the overlay pass between "
                f"{ask.asker.address} and {ask.asked.address}"
            )
        yield Finding("error", ask.asker.id, text)


def _narrow_paths(
    nodes: Sequence[ExaminedNode], networks: Mapping[NetworkId, ExaminedNetwork]
) -> Iterable[Finding]:
    for ask in _asked(nodes):
        examined = networks.get(ask.probe.network_id)
        if ask.probe.mtu_misses < NETWORK_PROBE_MISSES_MAX or examined is None:
            continue
        mtu = examined.network.mtu
        yield Finding(
            "error",
            ask.asker.id,
            f"packets of {mtu} bytes, the MTU of network {examined.network.name}, do not pass "
            f"between {ask.asker.hostname} and {ask.asked.hostname}, though small ones do: the "
            f"way from {ask.asker.address} to {ask.asked.address} must carry "
            f"{mtu + VXLAN_OVERHEAD_BYTES}, or the network needs a smaller MTU",
        )


def _underlay_mtu(
    nodes: Sequence[ExaminedNode], networks: Mapping[NetworkId, ExaminedNetwork]
) -> Iterable[Finding]:
    known = [node for node in nodes if node.is_ready and node.mtu]
    counts = Counter(node.mtu for node in known)
    if len(counts) < 2:
        return
    usual = max(counts, key=lambda mtu: (counts[mtu], mtu))
    widest = max((n.network.mtu for n in networks.values() if n.network.subnet), default=0)
    for node in known:
        if node.mtu == usual:
            continue
        is_broken = node.mtu < widest + VXLAN_OVERHEAD_BYTES <= usual
        yield Finding(
            "error" if is_broken else "warning",
            node.id,
            f"{node.hostname} has an underlay of {node.mtu} bytes where others have {usual}: "
            "networks are as narrow as the narrowest of their nodes; give all the same MTU",
        )


def _addresses(networks: Iterable[ExaminedNetwork]) -> Iterable[Finding]:
    for examined in networks:
        network = examined.network
        if not network.subnet or examined.used_percent < ADDRESSES_USED_PERCENT_MAX:
            continue
        is_full = examined.addresses_used >= examined.addresses_max
        state = "has no free address left" if is_full else "is running out of addresses"
        yield Finding(
            "error" if is_full else "warning",
            "",
            f"network {network.name} {state} ({examined.addresses_used} of "
            f"{examined.addresses_max} in {network.ip_range or network.subnet}): make one with a "
            "larger subnet and move services to it",
        )


def _of_port(missing: UnpublishedPort) -> Finding:
    port = missing.port
    if not port.published_port:
        reason = no_port_left(port.protocol)
    elif missing.holder:
        reason = f"service {missing.holder} has {port.published_port}/{port.protocol}"
    else:
        reason = f"{port.published_port}/{port.protocol} is not claimed: see the leader's log"
    return Finding(
        "error",
        "",
        f"service {missing.service} has not published port {port.target_port}/{port.protocol} of "
        f"its tasks: {reason}",
    )


def _name(network_id: NetworkId, networks: Mapping[NetworkId, ExaminedNetwork]) -> str:
    examined = networks.get(network_id)
    return examined.network.name if examined is not None else network_id


def _names(hostnames: Iterable[str]) -> str:
    names = sorted(hostnames)
    more = len(names) - NAMES_SHOWN_MAX
    return ", ".join(names[:NAMES_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
