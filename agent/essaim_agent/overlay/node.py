"""The overlay of this node as one blocking object: wanted tables, tasks' namespaces, repairs.

All methods run on one thread (`task_networks` owns it), so nothing here is locked and no two
changes of the kernel's tables ever cross.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from essaim_agent.network import NetworkError, NetworkPicture, NetworksRefused
from essaim_agent.network_health.checked import Checked
from essaim_agent.overlay.differences import Difference, differences
from essaim_agent.overlay.host_ports import PublishedTask
from essaim_agent.overlay.isolation import NAME_SERVER_PORT_DEFAULT
from essaim_agent.overlay.namespaces import NAMESPACE_DIRECTORY, Namespaces, is_namespace
from essaim_agent.overlay.netlink import DEVICE_SYSCTLS, Kernel, read_sysctl, write_sysctl
from essaim_agent.overlay.packet_filter import have_bridged_packets_filtered
from essaim_agent.overlay.plan import Operation, carried_out, operation_device, plan
from essaim_agent.overlay.sysctls import check_sysctls
from essaim_agent.overlay.tables import (
    UDP_PORT_DEFAULT,
    Port,
    Tables,
    WantedTables,
    bridge_name,
    port_alias,
    port_name,
    vxlan_name,
)
from essaim_agent.overlay.traffic import Traffic
from essaim_shared.ids import NetworkId, TaskId
from essaim_shared.objects import Attachment
from essaim_shared.spec import PortConfig

ATTEMPTS_MAX = 3
"""Somebody else may change the tables while a plan is carried out; then it is made anew. In the
last attempt each operation is on its own: what is wrong with one network is no other's trouble."""

CONNECTIONS_FILLED_PERCENT = 90
"""Of the kernel's table of connections: then new ones will soon be dropped."""

NODE_SYSCTLS = (
    ("net/ipv4/ip_forward", "1"),
    # A device redirects when either its own switch or this one is on.
    ("net/ipv4/conf/all/send_redirects", "0"),
    # Bridged packets pass the tables: service addresses and isolation depend on it.
    ("net/bridge/bridge-nf-call-iptables", "1"),
)


class Failure(NamedTuple):
    """Something that the kernel refused."""

    difference: Difference
    error: NetworkError
    device: str


class Attempt(NamedTuple):
    """A plan that was carried out, or as much of it as the kernel took."""

    operations: Sequence[Operation]
    before: Tables


class Reconciled(NamedTuple):
    attempts: Sequence[Attempt]
    failures: Sequence[Failure] = ()

    @property
    def done_count(self) -> int:
        """Operations of the last plan that succeeded."""
        return len(self.attempts[-1].operations) - len(self.failures)


class OverlayNode:
    """Make it on the thread, and in the network namespace, in which it is to work."""

    def __init__(
        self,
        address: str,
        udp_port: int = UDP_PORT_DEFAULT,
        namespace_directory: Path = NAMESPACE_DIRECTORY,
        name_server_port: int = NAME_SERVER_PORT_DEFAULT,
    ) -> None:
        self._kernel = Kernel()
        self._namespaces = Namespaces(self._kernel, namespace_directory)
        self._traffic = Traffic(address, self._kernel, name_server_port)
        self._attachments: dict[TaskId, tuple[Attachment, ...]] = {}
        """Those that this run of the agent made or was told."""
        self.picture = NetworkPicture()
        self._is_told = False
        self._is_applied = False
        self._wanted_tables = WantedTables(address, udp_port)
        self.wanted = Tables()
        self._present = Tables()
        self._ports: dict[TaskId, list[str]] = {}

    def start(self) -> None:
        """Read what is there, and change nothing of it before the masters have said what they
        want: containers of an earlier run are talking."""
        have_bridged_packets_filtered()
        for path, value in NODE_SYSCTLS:
            write_sysctl(path, value)
        self._present = self._kernel.read()
        for port in self._present.ports.values():
            self._ports.setdefault(port.task_id, []).append(port.name)

    def close(self) -> None:
        self._traffic.close()
        self._namespaces.close()
        self._kernel.close()

    @property
    def names(self) -> dict[int, str]:
        return self._kernel.names

    def want(self, picture: NetworkPicture) -> int:
        """Returns how much had to be done. Raises NetworkError, but not before all that can be
        done is done."""
        if self._is_applied and picture == self.picture:
            return 0
        self.wanted = self._wanted_tables.update(picture.networks, picture.endpoints)
        self.picture = picture
        if not self._is_told:
            self._kernel.prefer(self._wanted_tables.known)
        self._is_told, self._is_applied = True, False
        reconciled = self._reconcile()
        self._traffic.want(picture)
        self._traffic.apply(self._present)
        if failures := reconciled.failures:
            raise NetworksRefused(str(failures[0].error), self._networks_of(failures))
        self._is_applied = True
        return reconciled.done_count

    def _networks_of(self, failures: Iterable[Failure]) -> frozenset[NetworkId]:
        """Which networks are not as wanted; all of them where a failure is of none alone."""
        owners = {
            device: network_id
            for network_id in self.picture.networks
            for device in (bridge_name(network_id), vxlan_name(network_id))
        }
        devices = [failure.device for failure in failures]
        if not owners.keys() >= set(devices):
            return frozenset(self.picture.networks)
        return frozenset(owners[device] for device in devices)

    def read(self) -> Tables:
        return self._kernel.read()

    def check(self) -> Checked:
        """Compare the kernel with what is wanted, and mend it. Raises NetworkError when it cannot
        even be read."""
        if not self._is_told:
            return Checked()
        mended, problems = settle_sysctls(NODE_SYSCTLS)
        self._present = self._kernel.read()
        reconciled = self._reconcile()
        mended += self._mended_by(reconciled)
        problems += [
            f"{failure.difference.found}, and it cannot be mended: {failure.error}"
            for failure in reconciled.failures
        ]
        for bridge in self._present.bridges:
            set_right, refused = settle_sysctls(self._bridge_sysctls(bridge))
            mended += set_right
            problems += refused
        try:
            mended += self._traffic.check(self._present)
        except NetworkError as error:
            problems.append(f"the packet filter is not as wanted: {error}")
        made_anew, lost = self._restore_ports()
        connections, complaint = count_connections()
        return Checked(
            mended=(*mended, *made_anew),
            problems=(*problems, *self._traffic.problems(), *lost, *complaint),
            networks=len(self.picture.networks),
            endpoints=len(self.picture.endpoints),
            services=len(self.picture.services),
            connections=connections,
        )

    def _mended_by(self, reconciled: Reconciled) -> list[str]:
        """A sentence for all that was set right. Not the first plan's alone: tables change while
        another difference is being struggled with, and what a later plan found is told too."""
        failed = {failure.difference.found for failure in reconciled.failures}
        mended = {
            str(difference): None
            for operations, before in reconciled.attempts
            for difference in differences(operations, before, self.picture)
            if difference.found not in failed
        }
        return list(mended)

    def _reconcile(self) -> Reconciled:
        """The tables of the overlay."""
        attempts: list[Attempt] = []
        for _ in range(ATTEMPTS_MAX - 1):
            operations = plan(self.wanted, self._present)
            attempts.append(Attempt(operations, self._present))
            try:
                self._kernel.carry_out(operations)
            except NetworkError:
                self._present = self._kernel.read()
                continue
            self._present = carried_out(operations, self._present)
            self._kernel.learn_names(self._present)
            return Reconciled(attempts)
        operations = plan(self.wanted, self._present)
        attempts.append(Attempt(operations, self._present))
        failures = self._carry_out_singly(operations)
        self._present = self._kernel.read()
        return Reconciled(attempts, failures)

    def _carry_out_singly(self, operations: Sequence[Operation]) -> list[Failure]:
        failures: list[Failure] = []
        broken: set[str] = set()
        described = differences(operations, self._present, self.picture)
        for operation, difference in zip(operations, described, strict=True):
            device = operation_device(operation)
            if device in broken:
                continue  # it would fail for the same reason
            try:
                self._kernel.carry_out([operation])
            except NetworkError as error:
                failures.append(Failure(difference, error, device))
                broken.add(device)
        return failures

    def _bridge_sysctls(self, bridge: str) -> list[tuple[str, str]]:
        settings = [(f"net/{kind}/conf/{bridge}/{key}", to) for kind, key, to in DEVICE_SYSCTLS]
        return [*settings, *self._traffic.loopback_settings(bridge)]

    def _restore_ports(self) -> tuple[list[str], list[str]]:
        """Interfaces of tasks that somebody deleted are made anew. A sentence for each that was,
        and for each that could not be."""
        mended: list[str] = []
        problems: list[str] = []
        for task_id, names in self._ports.items():
            lost = [name for name in names if name not in self._present.ports]
            if not lost:
                continue
            what = f"the interface {', '.join(lost)} of task {task_id} was deleted"
            attachments = self._attachments.get(task_id, self.picture.tasks.get(task_id, ()))
            networks = self.picture.networks
            if not attachments or not all(a.network_id in networks for a in attachments):
                problems.append(f"{what}, and its networks are no longer on this node")
                continue
            try:
                self._namespaces.restore(task_id, attachments, networks, lost)
            except NetworkError as error:
                problems.append(f"{what}, and cannot be made anew: {error}")
                continue
            self._add_ports(task_id, attachments, lost)
            mended.append(f"{what}: made anew")
        return mended, problems

    def _add_ports(
        self, task_id: TaskId, attachments: Sequence[Attachment], names: Sequence[str]
    ) -> None:
        """Those that were just made."""
        added: dict[str, Port] = {}
        for attachment in attachments:
            name = port_name(task_id, attachment.network_id)
            if name in names:
                self._kernel.aliases[name] = port_alias(task_id, attachment.network_id)
                added[name] = Port(name, bridge_name(attachment.network_id), task_id, joined=True)
        self._kernel.reflect(names)
        self._set_ports({**self._present.ports, **added})

    def adopt_ports(self, published: Mapping[TaskId, PublishedTask]) -> None:
        self._traffic.adopt(published, self._present)

    def open_connections(self, task_ids: Iterable[TaskId]) -> dict[TaskId, int]:
        """TCP connections that each task serves now. Raises NetworkError."""
        addresses = {task_id: self._addresses_of(task_id) for task_id in task_ids}
        counts = self._traffic.open_connections(a for own in addresses.values() for a in own)
        return {t: sum(counts[address] for address in own) for t, own in addresses.items()}

    def _addresses_of(self, task_id: TaskId) -> list[str]:
        attachments = self._attachments.get(task_id, self.picture.tasks.get(task_id, ()))
        return [attachment.address for attachment in attachments]

    def attach(
        self,
        task_id: TaskId,
        attachments: Sequence[Attachment],
        sysctls: Mapping[str, str],
        ports: Sequence[PortConfig] = (),
    ) -> str:
        if attachments:
            self._attachments[task_id] = tuple(attachments)
        if ports and attachments:
            wanted = PublishedTask(attachments[0].address, tuple(ports))
            self._traffic.publish(task_id, wanted, self._present)
        path = self._namespaces.path(task_id)
        known = self._ports.get(task_id)
        if known is not None and is_namespace(path):
            return str(path)
        check_sysctls(sysctls)
        if not attachments:
            raise NetworkError(f"task {task_id} has no network to be attached to")
        for attachment in attachments:
            if attachment.network_id not in self.picture.networks:
                raise NetworkError(
                    f"network {attachment.network_id} of task {task_id} is not on this node"
                )
        devices = known
        if devices is None:
            devices = [port_name(task_id, attachment.network_id) for attachment in attachments]
        # Of a run whose namespace lost its path, or that was killed while it removed it.
        leftover = [name for name in devices if name in self._present.ports]
        if leftover:
            self._namespaces.delete_ports(leftover)
        names = self._namespaces.make(task_id, attachments, self.picture.networks, sysctls)
        self._ports[task_id] = names
        self._add_ports(task_id, attachments, names)
        return str(path)

    def detach(self, task_ids: Sequence[TaskId]) -> None:
        """All of them together. Raises NetworkError; repeating it takes up what is left."""
        self._traffic.unpublish(task_ids, self._present)
        names: list[str] = []
        for task_id in task_ids:
            names.extend(self._ports.get(task_id, ()))
        if names:
            self._namespaces.delete_ports(names)
        for task_id in task_ids:
            self._namespaces.unpin(task_id)
            self._ports.pop(task_id, None)
            self._attachments.pop(task_id, None)
        gone = frozenset(names)
        self._set_ports({n: port for n, port in self._present.ports.items() if n not in gone})
        if self._is_told and self._present.bridges.keys() != self.wanted.bridges.keys():
            self._reconcile()
            self._traffic.apply(self._present)

    def _set_ports(self, ports: dict[str, Port]) -> None:
        self._present = msgspec.structs.replace(self._present, ports=ports)

    def attached(self) -> frozenset[TaskId]:
        return frozenset(t for t in self._ports if is_namespace(self._namespaces.path(t)))

    def ports(self, task_id: TaskId) -> Sequence[str] | None:
        """Any thread may ask. None for a task without a namespace."""
        return self._ports.get(task_id)


def settle_sysctls(settings: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Set those that are not as wanted. A sentence for each that was, and for each that cannot
    be set."""
    mended: list[str] = []
    problems: list[str] = []
    for path, value in settings:
        try:
            found = read_sysctl(path)
            if found is not None and found != value:
                write_sysctl(path, value)
                mended.append(f"sysctl {path.replace('/', '.')} was {found}: set to {value}")
        except NetworkError as error:
            problems.append(str(error))
    return mended, problems


def count_connections() -> tuple[int, list[str]]:
    """Flows that the kernel tracks in this namespace, and what is wrong with their number."""
    count, most = (read_sysctl(f"net/netfilter/nf_conntrack_{name}") for name in ("count", "max"))
    if count is None or most is None:
        return 0, []
    filled_percent = 100 * int(count) // max(1, int(most))
    if filled_percent < CONNECTIONS_FILLED_PERCENT:
        return int(count), []
    return int(count), [
        f"the kernel tracks {count} connections of at most {most} and drops new ones beyond: "
        "raise the sysctl net.netfilter.nf_conntrack_max"
    ]
