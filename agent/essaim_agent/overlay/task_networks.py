"""The overlay as the agent sees it: asynchronous calls, a watch on the kernel, a timer.

All work runs on one thread of its own, in the order of the calls. The event loop only hears the
kernel's notifications and asks for a check when one contradicts what is wanted; in any case
everything is compared every two seconds.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from essaim_agent.dns.keeper import NameServer
from essaim_agent.network import InterfaceCounters, NetworkError, NetworkPicture
from essaim_agent.network_health.checked import Checked
from essaim_agent.overlay import rtnetlink as rt
from essaim_agent.overlay.channel import RECEIVE_BYTES, open_notifications
from essaim_agent.overlay.host_ports import published_tasks
from essaim_agent.overlay.isolation import NAME_SERVER_PORT_DEFAULT
from essaim_agent.overlay.kernel_rows import entry_of
from essaim_agent.overlay.namespaces import NAMESPACE_DIRECTORY
from essaim_agent.overlay.node import OverlayNode
from essaim_agent.overlay.plan import contradicts, link_contradicts
from essaim_agent.overlay.shared_looks import SharedLooks
from essaim_agent.overlay.tables import PORT_PREFIX, UDP_PORT_DEFAULT, Tables
from essaim_shared.clock import Clock, pause
from essaim_shared.ids import TaskId
from essaim_shared.log import fields
from essaim_shared.objects import Attachment, Task
from essaim_shared.spec import PortConfig

CHECK_PERIOD_S = 2.0
"""So that whatever is done to the tables is mended within five, also what nobody announces."""
NOTIFIED_CHECK_DELAY_S = 0.05
"""Changes come in groups: a bridge that goes takes all its entries along."""
NOTIFIED_CHECK_SPACING_S = 1.0
"""Somebody who fights for a table with us must not cost a core."""
NOTIFICATIONS_PER_TURN_MAX = 64
SENTENCES_LOGGED_MAX = 5
"""Of one comparison: a bridge that goes takes thousands of entries along."""
COUNTERS_AGE_MAX_S = 0.25
"""One reading of /proc/net/dev serves all tasks of a round of measurements."""

_log = logging.getLogger(__name__)

R = TypeVar("R")


class OverlayNetworks:
    """Implements `essaim_agent.network.TaskNetworks` in the network namespace of this process."""

    def __init__(
        self,
        address: str,
        clock: Clock,
        udp_port: int = UDP_PORT_DEFAULT,
        namespace_directory: Path = NAMESPACE_DIRECTORY,
        thread_initializer: Callable[[], None] | None = None,
        name_server_port: int = NAME_SERVER_PORT_DEFAULT,
        name_server: NameServer | None = None,
    ) -> None:
        """`address` is the node's on the underlay. `thread_initializer` runs first on the
        overlay's thread, and may move it to another network namespace. What tasks send to port
        53 of their gateway comes to `name_server_port` there; without `name_server` nobody of
        ours answers it."""
        self.name_server = name_server
        self._clock = clock
        self._address, self._udp_port = address, udp_port
        self._name_server_port = name_server_port
        self._namespace_directory = namespace_directory
        self._thread_initializer = thread_initializer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="overlay")
        self._node: OverlayNode | None = None
        self._listener: socket.socket | None = None
        self._watch: asyncio.Task[None] | None = None
        self._notified = asyncio.Event()
        self._leaving: deque[TaskId] = deque()
        self._counters: dict[str, InterfaceCounters] = {}
        self._counters_read_s = float("-inf")
        self._counters_path = "/proc/net/dev"
        self._looks = SharedLooks(self._open_connections, clock)
        self._problems: tuple[str, ...] = ()
        self._on_checked: list[Callable[[Checked], None]] = []

    def on_checked(self, listener: Callable[[Checked], None]) -> None:
        """Have it told what each comparison found."""
        self._on_checked.append(listener)

    @property
    def picture(self) -> NetworkPicture:
        """What was wanted last."""
        return NetworkPicture() if self._node is None else self._node.picture

    async def inside(self, work: Callable[[], R]) -> R:
        """Do something, such as making a socket, in the node's network namespace. Raises
        NetworkError before the start."""
        return await self._run(lambda _: work())

    async def _run(self, work: Callable[[OverlayNode], R]) -> R:
        node = self._node
        if node is None:
            raise NetworkError("the overlay is not started")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, node)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        node, listener = await loop.run_in_executor(self._thread, self._open)
        self._node, self._listener = node, listener
        loop.add_reader(listener, self._hear)
        self._watch = asyncio.create_task(self._keep_checking(), name="overlay check")
        if self.name_server is not None:
            await self.name_server.start()

    def _open(self) -> tuple[OverlayNode, socket.socket]:
        if self._thread_initializer is not None:
            self._thread_initializer()
        node = OverlayNode(
            self._address, self._udp_port, self._namespace_directory, self._name_server_port
        )
        listener = open_notifications(rt.RTNLGRP_LINK, rt.RTNLGRP_NEIGH)
        self._counters_path = f"/proc/self/task/{threading.get_native_id()}/net/dev"
        try:
            node.start()
        except NetworkError:
            listener.close()
            node.close()
            raise
        return node, listener

    async def close(self) -> None:
        if self.name_server is not None:
            await self.name_server.close()
        if self._watch is not None and self._listener is not None and self._node is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            await self._run(OverlayNode.close)
            self._node = self._watch = self._listener = None
        self._thread.shutdown()

    async def adopt_ports(self, tasks: Iterable[Task]) -> None:
        adopted = published_tasks(tasks)
        await self._run(lambda node: node.adopt_ports(adopted))

    async def want(self, picture: NetworkPicture) -> None:
        refusal: NetworkError | None = None
        try:
            count = await self._run(lambda node: node.want(picture))
        except NetworkError as error:
            refusal = error
        else:
            if count:
                _log.debug("overlay changed %s", fields(operations=count))
        # Also when the kernel refuses something of one network: names are no older than the rest.
        if self.name_server is not None:
            await self.name_server.update(picture)
        if refusal is not None:
            raise refusal

    async def attach(
        self,
        task_id: TaskId,
        attachments: Sequence[Attachment],
        sysctls: Mapping[str, str],
        ports: Sequence[PortConfig] = (),
    ) -> str:
        return await self._run(lambda node: node.attach(task_id, attachments, sysctls, ports))

    async def detach(self, task_id: TaskId) -> None:
        self._leaving.append(task_id)
        await self._run(self._detach_leaving)

    def _detach_leaving(self, node: OverlayNode) -> None:
        """While one removal waits for the kernel others queue up; the next takes them all."""
        task_ids = [self._leaving.popleft() for _ in range(len(self._leaving))]
        if not task_ids:
            return
        try:
            node.detach(task_ids)
        except NetworkError:
            self._leaving.extend(task_ids)  # their callers are behind this one in the queue
            raise

    async def connections(self, task_id: TaskId) -> int:
        """TCP connections that a task serves now, or did a moment ago. Raises NetworkError."""
        return await self._looks.connections(task_id)

    async def _open_connections(self, task_ids: frozenset[TaskId]) -> dict[TaskId, int]:
        return await self._run(lambda node: node.open_connections(task_ids))

    async def attached(self) -> frozenset[TaskId]:
        return await self._run(OverlayNode.attached)

    def counters(self, task_id: TaskId) -> InterfaceCounters | None:
        names = self._node.ports(task_id) if self._node is not None else None
        if names is None:
            return None
        now_s = self._clock.monotonic_s()
        if now_s - self._counters_read_s > COUNTERS_AGE_MAX_S:
            self._counters = read_counters(Path(self._counters_path).read_text())
            self._counters_read_s = now_s
        found = [self._counters[name] for name in names if name in self._counters]
        return InterfaceCounters(
            receive_bytes=sum(counters.receive_bytes for counters in found),
            transmit_bytes=sum(counters.transmit_bytes for counters in found),
            receive_packets=sum(counters.receive_packets for counters in found),
            transmit_packets=sum(counters.transmit_packets for counters in found),
        )

    def _hear(self) -> None:
        """Take the kernel's notifications; bounded per turn, so that a flood blocks nobody."""
        assert self._listener is not None
        for _ in range(NOTIFICATIONS_PER_TURN_MAX):
            try:
                data = self._listener.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._notified.set()  # some were lost: look for ourselves
                return
            if not self._notified.is_set() and self._is_contradiction(data):
                self._notified.set()

    def _is_contradiction(self, data: bytes) -> bool:
        node = self._node
        if node is None:
            return False
        wanted, names = node.wanted, node.names
        for kind, _, payload in rt.messages(data):
            if kind in (rt.RTM_NEWLINK, rt.RTM_DELLINK):
                _, name, is_up = rt.link_name(payload)
                if link_contradicts(wanted, name, is_up and kind == rt.RTM_NEWLINK):
                    return True
            elif kind in (rt.RTM_NEWNEIGH, rt.RTM_DELNEIGH):
                row = rt.neighbour(payload)
                entry = entry_of(row, names[row.index]) if row.index in names else None
                if entry is not None and contradicts(wanted, entry, kind == rt.RTM_DELNEIGH):
                    return True
        return False

    async def _keep_checking(self) -> None:
        while True:
            is_notified = await pause(self._clock, CHECK_PERIOD_S, self._notified)
            if is_notified:
                await self._clock.sleep(NOTIFIED_CHECK_DELAY_S)
            self._notified.clear()
            try:
                await self.check()
            except NetworkError as error:
                _log.warning("overlay check failed %s", fields(reason=error, next_s=CHECK_PERIOD_S))
                self._tell(Checked(problems=(f"the tables cannot be compared: {error}",)))
            if is_notified:
                await self._clock.sleep(NOTIFIED_CHECK_SPACING_S)

    async def check(self) -> Checked:
        """Compare the kernel with what is wanted, now, and mend what is not so. Raises
        NetworkError when the kernel cannot be read."""
        checked = await self._run(OverlayNode.check)
        for sentence in checked.mended[:SENTENCES_LOGGED_MAX]:
            _log.warning("overlay mended %s", fields(what=sentence, of=len(checked.mended)))
        if checked.problems != self._problems:
            self._problems = checked.problems
            for sentence in checked.problems[:SENTENCES_LOGGED_MAX]:
                _log.error("overlay not as wanted %s", fields(reason=sentence))
        checked = msgspec.structs.replace(checked, at_ns=self._clock.wall_ns())
        self._tell(checked)
        return checked

    def _tell(self, checked: Checked) -> None:
        for listener in self._on_checked:
            listener(checked)

    async def present(self) -> Tables:
        """The tables as the kernel has them now. Raises NetworkError."""
        return await self._run(OverlayNode.read)


def read_counters(text: str) -> dict[str, InterfaceCounters]:
    """From /proc/net/dev, the ports' lines, seen from the other end: what the host's end
    received the container sent."""
    counters: dict[str, InterfaceCounters] = {}
    for line in text.splitlines()[2:]:
        name, _, figures = line.partition(":")
        name = name.strip()
        if name.startswith(PORT_PREFIX):
            column = figures.split()
            counters[name] = InterfaceCounters(
                receive_bytes=int(column[8]),
                transmit_bytes=int(column[0]),
                receive_packets=int(column[9]),
                transmit_packets=int(column[1]),
            )
    return counters
