"""When a task that others send connections to may be told to stop. Pure; times are passed in.

A serving task that is to stop is told to all as draining, and the order to stop waits until every
live node that has to know says that its tables are so, or for `DRAIN_BARRIER_S`. What was told in
one flush to the same nodes waits together: the removal of two hundred tasks costs one round trip.

Sequences count within a session. A node that registers anew, or asks for a full set because it
lost something, is sent everything again and is waited for until it has that.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from essaim_shared.ids import NodeId, TaskId
from essaim_shared.limits import DRAIN_BARRIER_S


@dataclass(slots=True)
class _Round:
    tasks: tuple[TaskId, ...]
    due_s: float
    waiting: dict[NodeId, int | None]
    """The nodes that have not answered, with the sequence they were sent; None: not sent yet."""


class DrainBarrier:
    """The rounds under way, oldest first. Bounded by the flushes within `DRAIN_BARRIER_S`."""

    def __init__(self, longest_s: float = DRAIN_BARRIER_S) -> None:
        self._longest_s = longest_s
        self._rounds: list[_Round] = []

    def hold(self, tasks: tuple[TaskId, ...], audience: Iterable[NodeId], now_s: float) -> None:
        """Tasks are to drain: wait for these nodes, which are told next."""
        due_s = now_s + self._longest_s
        self._rounds.append(_Round(tasks, due_s, dict.fromkeys(audience)))

    def wants_answer(self, node_id: NodeId) -> bool:
        """Whether what is sent to the node next is to be answered once it is in force."""
        return any(
            node_id in waiting.waiting and waiting.waiting[node_id] is None
            for waiting in self._rounds
        )

    def sent(self, node_id: NodeId, sequence: int) -> None:
        """The node was sent everything that is held for it so far."""
        for waiting in self._rounds:
            if waiting.waiting.get(node_id, 0) is None:
                waiting.waiting[node_id] = sequence

    def again(self, node_id: NodeId) -> None:
        """The node is to be sent everything again, as a full set: what it was sent may be lost,
        and its sequences may begin anew."""
        for waiting in self._rounds:
            if node_id in waiting.waiting:
                waiting.waiting[node_id] = None

    def applied(self, node_id: NodeId, sequence: int) -> None:
        """The node's tables are as they were told up to this sequence of its session."""
        for waiting in self._rounds:
            sent = waiting.waiting.get(node_id)
            if sent is not None and sent <= sequence:
                del waiting.waiting[node_id]

    def node_gone(self, node_id: NodeId) -> None:
        """The node is down, or silent with others: nobody waits for it."""
        for waiting in self._rounds:
            waiting.waiting.pop(node_id, None)

    def unheard(self, now_s: float) -> list[NodeId]:
        """The nodes for which the longest wait is over now. To be asked before `due`."""
        over = (w.waiting for w in self._rounds if w.due_s <= now_s)
        return sorted({node_id for waiting in over for node_id in waiting})

    def due(self, now_s: float) -> list[TaskId]:
        """The tasks that may be told to stop now; each is named once."""
        released = [
            task_id
            for waiting in self._rounds
            if not waiting.waiting or waiting.due_s <= now_s
            for task_id in waiting.tasks
        ]
        if released:
            self._rounds = [w for w in self._rounds if w.waiting and w.due_s > now_s]
        return released

    def next_due_s(self) -> float | None:
        """When the longest wait of the oldest round is over."""
        return self._rounds[0].due_s if self._rounds else None
