"""Spread preferences as a tree: nodes by the first key's value, within it by the second's. Pure.

At every fork the next task goes to the branch with the fewest tasks of the service, so that
branches of one fork differ by at most one as long as all of them have room (SwarmKit,
manager/scheduler/decision_tree.go, does the same in one sweep). Nodes without the label form the
branch of the empty value. A branch counts the tasks of all its nodes, also of those that take no
more.
"""

import heapq
from collections.abc import Callable, Iterable

from essaim_master.control.scheduler.constraints import fact_of
from essaim_master.control.scheduler.filters import Candidate, Demand
from essaim_master.control.scheduler.score import Score

Occupy = Callable[[Candidate], Score | None]
"""Puts a task on the node; its score from now on, or None when it takes no more."""


class Leaf:
    """Nodes between which no preference decides, the best first."""

    def __init__(self) -> None:
        self._heap: list[tuple[Score, Candidate]] = []

    def add(self, score: Score, candidate: Candidate) -> None:
        self._heap.append((score, candidate))

    def arrange(self) -> None:
        """Once, after the last `add`."""
        heapq.heapify(self._heap)

    def best(self) -> Score | None:
        """Of the nodes that take more; None when there is none."""
        return self._heap[0][0] if self._heap else None

    def take(self, occupy: Occupy) -> bool:
        """Give the best node one task; False when no node takes any."""
        if not self._heap:
            return False
        candidate = self._heap[0][1]
        score = occupy(candidate)
        if score is None:
            heapq.heappop(self._heap)
        else:
            heapq.heapreplace(self._heap, (score, candidate))
        return True


class Fork:
    """One preference: branches by value."""

    def __init__(self) -> None:
        self._branches: dict[str, Fork | Leaf] = {}
        self._tasks: dict[str, int] = {}
        self._heap: list[tuple[int, Score, str]] = []

    def branch(self, value: str, tasks: int, is_last: bool) -> "Fork | Leaf":
        """The branch of a value, made if need be; it gets `tasks` more tasks."""
        self._tasks[value] = self._tasks.get(value, 0) + tasks
        found = self._branches.get(value)
        if found is None:
            found = self._branches[value] = Leaf() if is_last else Fork()
        return found

    def arrange(self) -> None:
        for value, branch in self._branches.items():
            branch.arrange()
            best = branch.best()
            if best is not None:
                self._heap.append((self._tasks[value], best, value))
        heapq.heapify(self._heap)

    def best(self) -> Score | None:
        return self._heap[0][1] if self._heap else None

    def take(self, occupy: Occupy) -> bool:
        """Of branches that are equally full the one with the better node is taken: or else all
        services of one task would meet in the first."""
        if not self._heap:
            return False
        tasks, _, value = self._heap[0]
        branch = self._branches[value]
        branch.take(occupy)
        best = branch.best()
        if best is None:
            heapq.heappop(self._heap)
        else:
            heapq.heapreplace(self._heap, (tasks + 1, best, value))
        return True


def plant(
    demand: Demand, usable: Iterable[tuple[Score, Candidate]], all_nodes: Iterable[Candidate]
) -> Fork | Leaf:
    """The tree of a demand over the nodes that passed the filters."""
    last = len(demand.spread_over) - 1
    if last < 0:
        leaf = Leaf()
        for score, candidate in usable:
            leaf.add(score, candidate)
        leaf.arrange()
        return leaf
    root = Fork()
    scores = {candidate.node_id: score for score, candidate in usable}
    for candidate in all_nodes:
        tasks = candidate.by_service.get(demand.service_id, 0)
        place: Fork | Leaf = root
        for depth, key in enumerate(demand.spread_over):
            value = fact_of(key, candidate.node, candidate.status, candidate.role) or ""
            assert isinstance(place, Fork)
            place = place.branch(value, tasks, is_last=depth == last)
        if candidate.node_id in scores:
            assert isinstance(place, Leaf)
            place.add(scores[candidate.node_id], candidate)
    root.arrange()
    return root
