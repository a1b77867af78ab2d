"""A network namespace per task, made by one thread without a fork. Blocking.

The overlay's thread leaves the node's namespace (unshare(2) moves one thread only), furnishes the
new one, pins it by a bind mount at its path, and comes back. The mount is the last step and the
veth pair is made from within: a crash at any moment leaves either a complete namespace or
nothing, since an unpinned namespace dies with the thread and takes both ends of the pair along.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from essaim_agent.network import NetworkError
from essaim_agent.overlay import rtnetlink as rt
from essaim_agent.overlay.channel import Channel, check, settle
from essaim_agent.overlay.netlink import Kernel, write_sysctl
from essaim_agent.overlay.routes import routes_of
from essaim_agent.overlay.sysctls import DEFAULT_SYSCTLS
from essaim_agent.overlay.tables import (
    bridge_name,
    namespace_name,
    port_alias,
    port_name,
    prefix_length,
)
from essaim_shared.addressing import mac_of
from essaim_shared.errors import BrokenInvariant
from essaim_shared.ids import NetworkId, TaskId
from essaim_shared.messages import NodeNetwork
from essaim_shared.objects import Attachment

NAMESPACE_DIRECTORY = Path("/run/netns")
"""Where iproute2 looks, so that `ip netns exec` works for people."""

LEAVING_GROUP = 0x65737661
"""Of devices about to be deleted together; "esva", a number nobody else chose."""

_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH = 2
_LOOPBACK_INDEX = 1
_FIRST_INDEX = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _system_call(doing: str, result: int) -> None:
    if result != 0:
        raise NetworkError(f"{doing}: {os.strerror(ctypes.get_errno())}")


class Namespaces:
    """Makes and removes them. Every method must run on the thread that made `kernel`."""

    def __init__(self, kernel: Kernel, directory: Path = NAMESPACE_DIRECTORY) -> None:
        self._kernel = kernel
        self._directory = directory
        self._home_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._home_fd)

    def path(self, task_id: TaskId) -> Path:
        return self._directory / namespace_name(task_id)

    def make(
        self,
        task_id: TaskId,
        attachments: Sequence[Attachment],
        networks: Mapping[NetworkId, NodeNetwork],
        sysctls: Mapping[str, str],
    ) -> list[str]:
        """Complete, or not at all. Returns the names of its ports. Raises NetworkError."""
        path = self.path(task_id)
        bridges = [self._kernel.index(bridge_name(a.network_id)) for a in attachments]
        names = [port_name(task_id, a.network_id) for a in attachments]
        joins: list[bytes] = []
        for name, bridge, attachment in zip(names, bridges, attachments, strict=True):
            joins.append(rt.describe_port(name, port_alias(task_id, attachment.network_id)))
            joins.append(rt.set_port(name, bridge))
        try:
            _system_call("new network namespace", _libc.unshare(_CLONE_NEWNET))
            write_sysctls(DEFAULT_SYSCTLS)
            with contextlib.closing(Channel()) as inside:
                check(
                    inside.send(self._furniture(attachments, networks, names)),
                    "furnish a namespace",
                )
                check(self._kernel.channel.send(joins), f"join {', '.join(names)} to its bridge")
                ends = [(inside, f"eth{i}") for i in range(len(names))]
                settle([*ends, *((self._kernel.channel, name) for name in names)])
            write_sysctls(sysctls)
            self._prepare_mount_point(path)
            _system_call(
                f"mount {path}",
                _libc.mount(b"/proc/thread-self/ns/net", bytes(path), b"none", _MS_BIND, None),
            )
        except NetworkError:
            self.delete_ports(names)
            raise
        finally:
            self._return_home()
        return names

    def _furniture(
        self,
        attachments: Sequence[Attachment],
        networks: Mapping[NetworkId, NodeNetwork],
        names: Sequence[str],
    ) -> list[bytes]:
        requests = [rt.link_up(_LOOPBACK_INDEX)]
        for i, attachment in enumerate(attachments):
            requests += self._interface(i, attachment, networks, names[i])
        # After the addresses: a gateway must be on a connected subnet.
        return requests + _routes(attachments, networks)

    def _interface(
        self,
        place: int,
        attachment: Attachment,
        networks: Mapping[NetworkId, NodeNetwork],
        port: str,
    ) -> list[bytes]:
        network = networks[attachment.network_id]
        index, mac = _FIRST_INDEX + place, mac_of(attachment.address)
        interface = f"{attachment.address}/{prefix_length(network.subnet)}"
        return [
            rt.new_veth(index, f"eth{place}", mac, network.mtu, port, self._home_fd),
            rt.add_address(index, interface),
        ]

    def restore(
        self,
        task_id: TaskId,
        attachments: Sequence[Attachment],
        networks: Mapping[NetworkId, NodeNetwork],
        lost: Sequence[str],
    ) -> None:
        """Make the lost ports anew, in the namespace that the task still has, with the same
        address and MAC. Raises NetworkError."""
        places = {port_name(task_id, a.network_id): i for i, a in enumerate(attachments)}
        requests: list[bytes] = []
        joins: list[bytes] = []
        for name in lost:
            attachment = attachments[places[name]]
            requests += self._interface(places[name], attachment, networks, name)
            bridge = self._kernel.index(bridge_name(attachment.network_id))
            joins.append(rt.describe_port(name, port_alias(task_id, attachment.network_id)))
            joins.append(rt.set_port(name, bridge))
        try:
            self._enter(self.path(task_id))
            with contextlib.closing(Channel()) as inside:
                check(inside.send(requests), f"make {', '.join(lost)} anew")
                routes = inside.send(_routes(attachments, networks))
                check(routes, "routes of a task", _KEPT)
                check(self._kernel.channel.send(joins), f"join {', '.join(lost)} to its bridge")
                ends = [(inside, f"eth{places[name]}") for name in lost]
                settle([*ends, *((self._kernel.channel, name) for name in lost)])
        except NetworkError:
            self.delete_ports(lost)
            raise
        finally:
            self._return_home()

    def _enter(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NetworkError(f"{path}: {error.strerror}") from error
        try:
            _system_call(f"enter {path}", _libc.setns(descriptor, _CLONE_NEWNET))
        finally:
            os.close(descriptor)

    def _prepare_mount_point(self, path: Path) -> None:
        """An empty file, or the one of an attempt that was killed just here."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
        except FileExistsError:
            if is_namespace(path):
                raise NetworkError(f"{path} is a namespace of somebody else") from None
        except OSError as error:
            raise NetworkError(f"{path}: {error.strerror}") from error

    def _return_home(self) -> None:
        if _libc.setns(self._home_fd, _CLONE_NEWNET) != 0:
            raise BrokenInvariant(
                f"setns back to the node's namespace: {os.strerror(ctypes.get_errno())}"
            )

    def unpin(self, task_id: TaskId) -> None:
        """The namespace goes once no process is in it; its path goes now."""
        path = self.path(task_id)
        if is_namespace(path):
            _system_call(f"unmount {path}", _libc.umount2(bytes(path), _MNT_DETACH))
        path.unlink(missing_ok=True)

    def delete_ports(self, names: Sequence[str]) -> None:
        """The peers inside go with them, also when a process still keeps a namespace.

        One deletion takes 30 ms, nearly all of it waiting; 200 in one group take 60 ms together.
        """
        if len(names) == 1:
            requests = [rt.delete_link(names[0])]
        else:
            requests = [rt.set_group(name, LEAVING_GROUP) for name in names]
            requests.append(rt.delete_group(LEAVING_GROUP))
        check(self._kernel.channel.send(requests), "delete a task's interface", _GONE)


_GONE = frozenset((errno.ENODEV,))
_KEPT = frozenset((errno.EEXIST,))


def _routes(
    attachments: Sequence[Attachment], networks: Mapping[NetworkId, NodeNetwork]
) -> list[bytes]:
    return [
        rt.add_route(_FIRST_INDEX + route.place, route.destination, route.gateway)
        for route in routes_of(attachments, networks)
    ]


def is_namespace(path: Path) -> bool:
    """A file on which a namespace is mounted is on another device (nsfs) than its directory."""
    try:
        return path.stat().st_dev != path.parent.stat().st_dev
    except FileNotFoundError:
        return False


def write_sysctls(sysctls: Mapping[str, str]) -> None:
    for name, value in sysctls.items():
        write_sysctl(name.replace(".", "/"), value)
