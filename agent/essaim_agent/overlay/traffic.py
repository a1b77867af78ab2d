"""Whom this node's connections are led to, and which it lets through: rules and flows as one
object, kept in the kernel. Blocking; it belongs to the overlay's thread.

All that one change needs of nftables is one transaction. Flows are deleted behind it, never
before: a packet that came in between would make the same flow again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Interface

from essaim_agent.network import NetworkError, NetworkPicture
from essaim_agent.overlay import host_ports, isolation, proxy
from essaim_agent.overlay.balance import Leads
from essaim_agent.overlay.conntrack import Conntrack
from essaim_agent.overlay.flows import Suspicion, suspicion
from essaim_agent.overlay.host_ports import PortKey, PublishedTask, holder_of
from essaim_agent.overlay.isolation import NAME_SERVER_PORT_DEFAULT, Segment
from essaim_agent.overlay.netlink import Kernel, read_sysctl, write_sysctl
from essaim_agent.overlay.nft_table import Table
from essaim_agent.overlay.packet_filter import AcceptRules, RuleTables
from essaim_agent.overlay.port_check import (
    check_ports_free,
    listened_ports,
    taken_ports,
)
from essaim_agent.overlay.tables import Tables, bridge_name
from essaim_shared.ids import TaskId

ACCEPT_RULES_CHECK_EVERY = 15
"""Checks in which nothing moved are let pass before iptables is asked all the same: the older of
its two kinds does not move the generation of nftables."""

LINGERING_CHECKS = 5
"""After the last published port: the connections of tasks elsewhere that drain pass through here
still, and of them this node hears no more. As long as a drain may take."""


class Traffic:
    """`address` is the node's on the underlay."""

    def __init__(
        self, address: str, kernel: Kernel, name_server_port: int = NAME_SERVER_PORT_DEFAULT
    ) -> None:
        self._address, self._kernel = address, kernel
        self._name_server_port = name_server_port
        self._rules = RuleTables()
        self._accept_rules = AcceptRules()
        self._conntrack = Conntrack()
        self._leads = Leads(address)
        self._proxy = proxy.ProxyTable()
        self._picture = NetworkPicture()
        self._internal: dict[str, bool] = {}
        """By bridge; remembered for those that wait for their last task."""
        self._was_internal: frozenset[str] | None = None
        """Bridges, by what an earlier run left in the kernel; None: not looked yet."""
        self._is_first = True
        self._suspected: list[Suspicion] = []
        """What flows are to be looked for once the rules are in force."""
        self._probed: set[PortKey] = set()
        self._taken: frozenset[PortKey] = frozenset()
        self._published: dict[TaskId, PublishedTask] = {}
        self._are_ports_known = False
        """False until it is told which ports of an earlier run still count: until then they stay
        as they are."""
        self._open_devices: set[str] | None = None
        """With the loopback open to them; None: not known yet."""
        self._quiet_checks = 0
        self._lingering_checks = 0
        """So many more the chains and rules for connections stay, though no port is published."""

    def close(self) -> None:
        self._conntrack.close()
        self._rules.close()

    def want(self, picture: NetworkPicture) -> None:
        """Take a picture in; `apply` puts it in force."""
        change = self._leads.update(picture)
        self._picture = picture
        for network in picture.networks.values():
            self._internal[bridge_name(network.network_id)] = network.is_internal
        if self._is_first:
            # An earlier run may have left flows to whoever went since.
            self._suspected.append(
                Suspicion(
                    vips=dict(self._leads.vips),
                    ports=dict(self._leads.ports),
                    opened_vips=frozenset(v for v, lead in self._leads.vips.items() if lead.shares),
                    opened_ports=frozenset(
                        key for key, lead in self._leads.ports.items() if lead.shares
                    ),
                )
            )
            self._is_first = False
        elif suspected := suspicion(change):
            self._suspected.append(suspected)
        if any(new is None for _, new in change.ports.values()):
            self._lingering_checks = LINGERING_CHECKS
        self._probe(key for key in change.ports)

    def _probe(self, keys: Iterable[PortKey]) -> None:
        """Find out which ports this node's own processes have, before they are captured."""
        wanted: set[PortKey] = set()
        for key in keys:
            lead = self._leads.ports.get(key)
            if lead is None:
                self._probed.discard(key)
                self._taken -= {key}
            elif lead.is_forced:
                self._taken -= {key}
            elif not lead.shares:
                self._probed.discard(key)  # nobody keeps a process from taking it meanwhile
            elif key not in self._probed:
                wanted.add(key)
        if wanted:
            self._taken |= taken_ports(wanted)
            self._probed |= wanted

    def apply(self, present: Tables) -> bool:
        """Put in force what is wanted, on the bridges that are there; True when something had to
        be changed. Raises NetworkError; what failed is tried again with the next call."""
        segments = list(self._segments(present))
        tables = self._tables(segments)
        if self._open_devices is None:
            self._open_devices = self._devices_left_open(present)
        devices = self._devices_with_loopback(present)
        for device in self._open_devices - devices:
            if read_sysctl(_loopback_setting(device)) is not None:  # else it went
                write_sysctl(_loopback_setting(device), "0")
        is_changed = self._rules.apply(tables)
        # The loopback is open to a device only while the guard stands.
        for device in devices - self._open_devices:
            write_sysctl(_loopback_setting(device), "1")
        self._open_devices = devices
        if self._accept_rules.apply(bool(segments) or self._has_ports, check=False):
            self._rules.own_other_change()
            is_changed = True
        while self._suspected:
            self._conntrack.forget(self._suspected[0])
            del self._suspected[0]
        return is_changed

    @property
    def _has_ports(self) -> bool:
        return bool(self._leads.ports) or self._lingering_checks > 0

    def _segments(self, present: Tables) -> Iterator[Segment]:
        """Of all bridges that are there, those that only wait for their last task included."""
        for bridge in present.bridges.values():
            for text in sorted(bridge.addresses):
                interface = IPv4Interface(text)
                yield Segment(
                    bridge.name,
                    str(interface.ip),
                    str(interface.network),
                    self._is_internal(bridge.name),
                )

    def _is_internal(self, bridge: str) -> bool:
        known = self._internal.get(bridge)
        if known is not None:
            return known
        # It lingers since an earlier run, for tasks of a network that is told of no more.
        if self._was_internal is None:
            self._was_internal = self._rules.loaded_elements(isolation.TABLE, isolation.INTERNAL)
        self._internal[bridge] = bridge in self._was_internal
        return self._internal[bridge]

    def _tables(self, segments: Sequence[Segment]) -> list[Table]:
        vip_subnets = {
            bridge_name(network.network_id): network.vip_subnet
            for network in self._picture.networks.values()
        }
        proxy_table = self._proxy.table(
            self._leads.vips,
            self._leads.ports,
            vip_subnets,
            self._leads.own_addresses,
            self._taken,
            self._has_ports,
        )
        own = [key for task in self._published.values() for key in task.keys]
        tables = [
            isolation.isolation_table(
                segments,
                [*self._leads.published, *own],
                self._picture.nodes,
                self._name_server_port,
                self._others_bridges(),
            ),
            proxy_table,
        ]
        if self._are_ports_known:
            subnets = [segment.subnet for segment in segments]
            tables.append(host_ports.ports_table(self._published.values(), subnets))
        return tables

    def _others_bridges(self) -> frozenset[str]:
        found = self._kernel.docker_bridges
        return found - {self._kernel.device_of(self._address) or ""} if found else found

    def _devices_left_open(self, present: Tables) -> set[str]:
        """By an earlier run, which left its tables too; otherwise by somebody else."""
        if not any(map(self._rules.was_loaded, (proxy.TABLE, host_ports.TABLE))):
            return set()
        underlay = self._kernel.device_of(self._address)
        return {*present.bridges, *(() if underlay is None else (underlay,))}

    def _devices_with_loopback(self, present: Tables) -> set[str]:
        """To which connections of 127.0.0.1 are led: the bridges, and, for ports that are sent
        on, the underlay's device."""
        devices: set[str] = set()
        if self._published or self._proxy.captured:
            devices.update(present.bridges)
        if self._proxy.captured:
            underlay = self._kernel.device_of(self._address)
            devices.update(() if underlay is None else (underlay,))
        return devices

    def check(self, present: Tables) -> list[str]:
        """Compare with the kernel, mend, and tell what was not as wanted. Raises NetworkError."""
        mended: list[str] = []
        if self._taken:
            freed = self._taken - taken_ports(self._taken)
            if freed:
                self._taken -= freed
                self._suspected.append(Suspicion(opened_ports=freed))
        self._lingering_checks = max(0, self._lingering_checks - 1)
        self._quiet_checks += 1
        if self._rules.is_disturbed or self._quiet_checks >= ACCEPT_RULES_CHECK_EVERY:
            self._quiet_checks = 0
            wanted = bool(present.bridges) or self._has_ports
            if self._accept_rules.apply(wanted, check=True):
                mended.append("the accept rules in iptables were not as wanted: set again")
        for device in (self._open_devices or set()) - present.bridges.keys():
            if read_sysctl(_loopback_setting(device)) == "0":
                write_sysctl(_loopback_setting(device), "1")
                mended.append(f"the loopback was closed to {device}: opened again")
        found = self._rules.check()
        mended += [f"{difference}: loaded again" for difference in found]
        self.apply(present)
        return mended

    def problems(self) -> tuple[str, ...]:
        """In words: published ports that this node does not serve, and processes that it cuts
        off."""
        names = {key: lead.service for key, lead in self._leads.ports.items()}
        left = (
            f"port {number}/{protocol} of service {names[protocol, number]} is in use by another "
            "process of this node, and is left to it: stop that process, or publish another port"
            for protocol, number in sorted(self._taken & names.keys())
        )
        return (*left, *self._cut_off(names))

    def _cut_off(self, names: Mapping[PortKey, str]) -> Iterator[str]:
        """Processes that began to listen on a port behind its publication."""
        owners = {
            key: f"service {names[key]}"
            for key in self._proxy.captured
            if key in names and not self._leads.ports[key].is_forced
        }
        for task_id, task in self._published.items():
            owners |= dict.fromkeys(task.keys, f"task {task_id}")
        if not owners:
            return
        for protocol, number in sorted(owners.keys() & listened_ports()):
            yield (
                f"a process of this node listens on port {number}/{protocol}, which leads to "
                f"{owners[protocol, number]}: nobody reaches it there; have it listen elsewhere"
            )

    def loopback_settings(self, bridge: str) -> list[tuple[str, str]]:
        value = "1" if bridge in (self._open_devices or ()) else "0"
        return [(_loopback_setting(bridge), value)]

    def open_connections(self, addresses: Iterable[str]) -> dict[str, int]:
        """Of TCP, to each of these addresses of tasks. Raises NetworkError."""
        return self._conntrack.open_connections(addresses)

    def adopt(self, published: Mapping[TaskId, PublishedTask], present: Tables) -> None:
        """In force at once, unless nothing is wanted yet: then with the first picture, for an
        empty one would close what an earlier run left open."""
        self._published.update(published)
        self._are_ports_known = True
        if not self._is_first:
            self.apply(present)

    def publish(self, task_id: TaskId, wanted: PublishedTask, present: Tables) -> None:
        if self._published.get(task_id) == wanted:
            return
        holder = holder_of(self._published, wanted)
        if holder is not None:
            raise NetworkError(f"a port of task {task_id} is still held by task {holder}")
        check_ports_free(wanted.keys)
        self._published[task_id] = wanted
        self._are_ports_known = True
        try:
            self.apply(present)
        except NetworkError:
            del self._published[task_id]
            raise
        self._conntrack.forget_ports(_udp_ports([wanted]))

    def unpublish(self, task_ids: Iterable[TaskId], present: Tables) -> None:
        gone = [self._published.pop(t) for t in task_ids if t in self._published]
        if gone:
            self.apply(present)
            self._conntrack.forget_ports(_udp_ports(gone))


def _loopback_setting(device: str) -> str:
    return f"net/ipv4/conf/{device}/route_localnet"


def _udp_ports(published: Iterable[PublishedTask]) -> list[int]:
    return [number for task in published for protocol, number in task.keys if protocol == "udp"]
