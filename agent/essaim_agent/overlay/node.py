"""The overlay of this node as one blocking object: wanted tables, tasks' namespaces, repairs.

All methods run on one thread (`task_networks` owns it), so nothing here is locked and no two
changes of the kernel's tables ever cross.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Interface
from pathlib import Path

import msgspec

from essaim_agent.network import NetworkError, NetworkPicture
from essaim_agent.overlay.host_ports import PublishedTask, holder_of
from essaim_agent.overlay.namespaces import NAMESPACE_DIRECTORY, Namespaces, is_namespace
from essaim_agent.overlay.netlink import Kernel, write_sysctl
from essaim_agent.overlay.packet_filter import PacketFilter, PortFilter, forget_flows, let_reflect
from essaim_agent.overlay.plan import Operation, carried_out, plan
from essaim_agent.overlay.port_check import check_ports_free
from essaim_agent.overlay.sysctls import check_sysctls
from essaim_agent.overlay.tables import (
    UDP_PORT_DEFAULT,
    Port,
    Tables,
    bridge_name,
    port_name,
    wanted_tables,
)
from essaim_shared.ids import TaskId
from essaim_shared.objects import Attachment
from essaim_shared.spec import PortConfig

ATTEMPTS_MAX = 3
"""Somebody else may change the tables while a plan is carried out; then it is made anew."""

NODE_SYSCTLS = (
    ("net/ipv4/ip_forward", "1"),
    # A device redirects when either its own switch or this one is on.
    ("net/ipv4/conf/all/send_redirects", "0"),
)


class OverlayNode:
    """Make it on the thread, and in the network namespace, in which it is to work."""

    def __init__(
        self,
        address: str,
        udp_port: int = UDP_PORT_DEFAULT,
        namespace_directory: Path = NAMESPACE_DIRECTORY,
    ) -> None:
        self._address = address
        self._udp_port = udp_port
        self._kernel = Kernel()
        self._namespaces = Namespaces(self._kernel, namespace_directory)
        self._packet_filter = PacketFilter()
        self._port_filter = PortFilter()
        self._published: dict[TaskId, PublishedTask] = {}
        self._are_ports_known = False
        """False until it is told which ports of an earlier run still count: until then they stay
        as they are."""
        self._picture = NetworkPicture()
        self._is_told = False
        self.wanted = Tables()
        self._present = Tables()
        self._ports: dict[TaskId, list[str]] = {}

    def start(self) -> None:
        """Read what is there, and change nothing of it before the masters have said what they
        want: containers of an earlier run are talking."""
        for path, value in NODE_SYSCTLS:
            write_sysctl(path, value)
        self._present = self._kernel.read()
        for port in self._present.ports.values():
            self._ports.setdefault(port.task_id, []).append(port.name)

    def close(self) -> None:
        self._namespaces.close()
        self._kernel.close()

    @property
    def names(self) -> dict[int, str]:
        return self._kernel.names

    def want(self, picture: NetworkPicture) -> list[Operation]:
        """Returns what had to be done. Raises NetworkError."""
        if self._is_told and picture == self._picture:
            return []
        self.wanted = wanted_tables(
            picture.networks.values(), picture.endpoints, self._address, self._udp_port
        )
        self._picture = picture
        self._is_told = True
        try:
            return self._apply(is_check=False)
        except NetworkError:
            self._is_told = False
            raise

    def read(self) -> Tables:
        return self._kernel.read()

    def check(self) -> list[Operation]:
        """Compare the kernel with what is wanted; returns the repairs. Raises NetworkError."""
        if not self._is_told:
            return []
        for path, value in NODE_SYSCTLS:
            write_sysctl(path, value)
        self._present = self._kernel.read()
        return self._apply(is_check=True)

    def _apply(self, is_check: bool) -> list[Operation]:
        done: list[Operation] = []
        for attempt in range(1, ATTEMPTS_MAX + 1):
            operations = plan(self.wanted, self._present)
            try:
                self._kernel.carry_out(operations)
            except NetworkError:
                if attempt == ATTEMPTS_MAX:
                    raise
                self._present = self._kernel.read()
                continue
            self._present = carried_out(operations, self._present)
            done.extend(operations)
            break
        self._kernel.learn_names(self._present)
        self._packet_filter.apply(_subnets(self._present), is_check)
        if self._are_ports_known:
            self._apply_ports(is_check)
        return done

    def adopt_ports(self, published: Mapping[TaskId, PublishedTask]) -> None:
        self._published.update(published)
        self._are_ports_known = True
        self._apply_ports(is_check=False)

    def _publish(self, task_id: TaskId, wanted: PublishedTask) -> None:
        if self._published.get(task_id) == wanted:
            return
        holder = holder_of(self._published, wanted)
        if holder is not None:
            raise NetworkError(f"a port of task {task_id} is still held by task {holder}")
        check_ports_free(wanted.keys)
        self._published[task_id] = wanted
        self._are_ports_known = True
        try:
            self._apply_ports(is_check=False)
        except NetworkError:
            del self._published[task_id]
            raise
        forget_flows(_udp_ports([wanted]))

    def _unpublish(self, task_ids: Sequence[TaskId]) -> None:
        gone = [self._published.pop(t) for t in task_ids if t in self._published]
        if gone:
            self._apply_ports(is_check=False)
            forget_flows(_udp_ports(gone))

    def _apply_ports(self, is_check: bool) -> None:
        """The loopback is open to the bridges only while the table with its guard stands."""
        if not self._published:
            self._open_loopback("0")
        subnets = _subnets(self._present)
        self._port_filter.apply(self._published.values(), subnets, is_check)
        if self._published:
            self._open_loopback("1")

    def _open_loopback(self, value: str) -> None:
        for bridge in self._present.bridges:
            write_sysctl(f"net/ipv4/conf/{bridge}/route_localnet", value)

    def attach(
        self,
        task_id: TaskId,
        attachments: Sequence[Attachment],
        sysctls: Mapping[str, str],
        ports: Sequence[PortConfig] = (),
    ) -> str:
        if ports and attachments:
            self._publish(task_id, PublishedTask(attachments[0].address, tuple(ports)))
        path = self._namespaces.path(task_id)
        known = self._ports.get(task_id)
        if known is not None and is_namespace(path):
            return str(path)
        check_sysctls(sysctls)
        if not attachments:
            raise NetworkError(f"task {task_id} has no network to be attached to")
        for attachment in attachments:
            if attachment.network_id not in self._picture.networks:
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
        names = self._namespaces.make(task_id, attachments, self._picture.networks, sysctls)
        self._ports[task_id] = names
        if ports:
            let_reflect(names)
        added = {
            name: Port(name, bridge_name(attachment.network_id), task_id, joined=True)
            for name, attachment in zip(names, attachments, strict=True)
        }
        self._set_ports({**self._present.ports, **added})
        return str(path)

    def detach(self, task_ids: Sequence[TaskId]) -> None:
        """All of them together. Raises NetworkError; repeating it takes up what is left."""
        self._unpublish(task_ids)
        names: list[str] = []
        for task_id in task_ids:
            names.extend(self._ports.get(task_id, ()))
        if names:
            self._namespaces.delete_ports(names)
        for task_id in task_ids:
            self._namespaces.unpin(task_id)
            self._ports.pop(task_id, None)
        gone = frozenset(names)
        self._set_ports({n: port for n, port in self._present.ports.items() if n not in gone})
        if self._is_told and self._present.bridges.keys() != self.wanted.bridges.keys():
            self._apply(is_check=False)

    def _set_ports(self, ports: dict[str, Port]) -> None:
        self._present = msgspec.structs.replace(self._present, ports=ports)

    def attached(self) -> frozenset[TaskId]:
        return frozenset(t for t in self._ports if is_namespace(self._namespaces.path(t)))

    def ports(self, task_id: TaskId) -> Sequence[str] | None:
        """Any thread may ask. None for a task without a namespace."""
        return self._ports.get(task_id)


def _subnets(tables: Tables) -> list[str]:
    """Of all bridges that are there, those that only wait for their last task included."""
    return [
        str(IPv4Interface(interface).network)
        for bridge in tables.bridges.values()
        for interface in bridge.addresses
    ]


def _udp_ports(published: Iterable[PublishedTask]) -> list[int]:
    return [number for task in published for protocol, number in task.keys if protocol == "udp"]
