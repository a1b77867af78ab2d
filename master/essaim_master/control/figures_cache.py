"""The latest figures of every node, on every master: what `top` and `node ls` show.

They never go through Raft. Agents publish to all masters; what is lost comes again in seconds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from essaim_master.control.rejects import Rejects
from essaim_shared.clock import Clock
from essaim_shared.errors import MalformedMessage
from essaim_shared.figures import ContainerFigures, NodeFigures
from essaim_shared.ids import NodeId, TaskId
from essaim_shared.limits import FIGURES_PERIOD_S
from essaim_shared.messages import FiguresReport, decode
from essaim_shared.subjects import Subjects
from essaim_shared.transport import Delivery, Subscription, Transport

FIGURES_AGE_MAX_S: Final = 6 * FIGURES_PERIOD_S
"""Older figures are no longer shown: the node is away."""

NODES_MAX: Final = 10_000
CHUNKS_MAX: Final = 64
"""Of one report: 16 MiB, or some 50,000 containers."""


@dataclass(slots=True)
class _Entry:
    received_s: float
    node: NodeFigures
    containers: tuple[ContainerFigures, ...]


@dataclass(slots=True)
class _Partial:
    """A report of several chunks that has not fully arrived."""

    taken_ns: int
    chunks: dict[int, tuple[ContainerFigures, ...]] = field(default_factory=dict)


class FiguresCache:
    def __init__(
        self,
        transport: Transport,
        subjects: Subjects,
        clock: Clock,
        node_of: Callable[[TaskId], NodeId | None],
    ) -> None:
        """`node_of`: the node that a task is on; None for one that there is not."""
        self._node_of = node_of
        self._transport = transport
        self._subjects = subjects
        self._clock = clock
        self._entries: dict[NodeId, _Entry] = {}
        self._partials: dict[NodeId, _Partial] = {}
        self._subscription: Subscription | None = None
        self.rejects = Rejects(clock)

    async def start(self) -> None:
        self._subscription = await self._transport.subscribe(
            self._subjects.all_figures, self._receive
        )

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None

    def nodes(self) -> Mapping[NodeId, NodeFigures]:
        """The figures of each node that reported lately."""
        self._drop_old()
        return {node_id: entry.node for node_id, entry in self._entries.items()}

    def containers(self) -> Mapping[TaskId, ContainerFigures]:
        """The figures of each task's container on those nodes. A node speaks of its own tasks."""
        self._drop_old()
        return {
            task_id: figures
            for node_id, entry in self._entries.items()
            for figures in entry.containers
            if self._node_of(task_id := TaskId(figures.task_id)) == node_id
        }

    async def _receive(self, delivery: Delivery) -> None:
        try:
            report = decode(delivery.payload, FiguresReport)
        except MalformedMessage as error:
            self.rejects.note(delivery.subject, error)
            return
        if delivery.subject != self._subjects.figures(report.node_id):
            self.rejects.note(delivery.subject, f"figures that name node {report.node_id}")
            return
        if not 0 <= report.chunk < report.chunks <= CHUNKS_MAX:
            self.rejects.note(delivery.subject, f"chunk {report.chunk} of {report.chunks}")
            return
        self._take(report)

    def _take(self, report: FiguresReport) -> None:
        node_id = report.node_id
        if node_id not in self._entries and node_id not in self._partials:
            self._drop_old()
            if len(self._entries) + len(self._partials) >= NODES_MAX:
                return
        containers = report.containers
        if report.chunks > 1:
            partial = self._partials.get(node_id)
            if partial is None or partial.taken_ns != report.node.taken_ns:
                partial = self._partials[node_id] = _Partial(report.node.taken_ns)
            partial.chunks[report.chunk] = containers
            if len(partial.chunks) < report.chunks:
                return
            containers = tuple(
                figures for number in sorted(partial.chunks) for figures in partial.chunks[number]
            )
        self._partials.pop(node_id, None)
        self._entries[node_id] = _Entry(self._clock.monotonic_s(), report.node, containers)

    def _drop_old(self) -> None:
        oldest_s = self._clock.monotonic_s() - FIGURES_AGE_MAX_S
        old = [n for n, entry in self._entries.items() if entry.received_s < oldest_s]
        for node_id in old:
            del self._entries[node_id]
            self._partials.pop(node_id, None)
