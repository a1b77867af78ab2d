"""A short way to the best node for groups of few tasks: nodes by how full they are. Pure.

A slice may hold hundreds of services of one task each, and looking at every node for each of them
would cost more than all else. Among nodes that have no task of the service yet and are not
faulty for it, the one with the fewest tasks is the best of all by `score`: it is found from the
top of a heap, and mostly at the first look. When the first few do not do, the long way is gone.
"""

import heapq
from collections.abc import Callable, Mapping

from essaim_master.control.scheduler.filters import Candidate
from essaim_shared.ids import NodeId

GROUP_TASKS_MAX = 8
"""Of larger groups the long way costs less for each task."""

LOOKS_MAX = 32


class Ranking:
    """Over the candidates of one slice, whose counts of tasks only grow meanwhile."""

    def __init__(self, candidates: Mapping[NodeId, Candidate]) -> None:
        self._candidates = candidates
        self._heap = [(candidate.tasks, node_id) for node_id, candidate in candidates.items()]
        heapq.heapify(self._heap)

    def emptiest(self, accepts: Callable[[Candidate], bool]) -> Candidate | None:
        """The node with the fewest tasks among those accepted; None when the first `LOOKS_MAX`
        are not, whatever the others are."""
        seen: list[tuple[int, NodeId]] = []
        found = None
        while self._heap and found is None and len(seen) < LOOKS_MAX:
            tasks, node_id = self._heap[0]
            candidate = self._candidates[node_id]
            if tasks != candidate.tasks:
                # It got tasks since: its place is further down.
                heapq.heapreplace(self._heap, (candidate.tasks, node_id))
                continue
            seen.append(heapq.heappop(self._heap))
            if accepts(candidate):
                found = candidate
        for entry in seen:
            heapq.heappush(self._heap, entry)
        return found
