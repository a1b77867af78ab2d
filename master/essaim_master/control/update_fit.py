"""Whether a running task may stay on its node under another template. Pure."""

import msgspec

from essaim_master.control.index import ControlIndex
from essaim_master.control.scheduler.filters import Candidate, demand_of, is_eligible
from essaim_master.control.scheduler.scheduler import candidates_of
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.errors import InvalidRequest
from essaim_shared.ids import NodeId
from essaim_shared.objects import Service, Task
from essaim_shared.spec import Reservations, TaskSpec


class NodeRoom:
    """The nodes as one look at a service finds them; what its tasks adopt is taken from them, so
    that two tasks of a node are not promised the same room."""

    def __init__(self, state: ClusterState, index: ControlIndex, service: Service) -> None:
        self._state = state
        self._index = index
        self._service = service
        self._candidates: dict[NodeId, Candidate] | None = None
        self._granted: dict[str, bool] = {}

    def fits(self, task: Task) -> bool:
        """Whether the task's node satisfies the service's placement and can hold what it reserves
        now. Answered once for each task."""
        if task.id not in self._granted:
            self._granted[task.id] = self._has_room(task)
        return self._granted[task.id]

    def _has_room(self, task: Task) -> bool:
        wanted = self._service.spec.task
        had, wants = _reserved(task.spec), _reserved(wanted)
        is_moved = task.spec.placement != wanted.placement
        if had == wants and not is_moved:
            return True
        candidate = self._candidate(task)
        if candidate is None:
            return False
        if is_moved and not self._may_stay(task, candidate):
            return False
        nano_cpus = wants.nano_cpus - had.nano_cpus
        memory_bytes = wants.memory_bytes - had.memory_bytes
        if nano_cpus > 0 and nano_cpus > candidate.free_nano_cpus:
            return False
        if memory_bytes > 0 and memory_bytes > candidate.free_memory_bytes:
            return False
        candidate.free_nano_cpus -= nano_cpus
        candidate.free_memory_bytes -= memory_bytes
        return True

    def _may_stay(self, task: Task, candidate: Candidate) -> bool:
        """Preferences move nobody: they only matter where a task is placed, as in Swarm."""
        try:
            demand = demand_of(task.service_id, self._service.spec.task)
        except InvalidRequest:
            return False
        if not is_eligible(demand, candidate):
            return False
        if not demand.max_replicas:
            return True
        count = candidate.by_service.get(task.service_id, 0)
        if count <= demand.max_replicas:
            return True
        candidate.by_service[task.service_id] = count - 1
        return False

    def _candidate(self, task: Task) -> Candidate | None:
        if self._candidates is None:
            self._candidates = candidates_of(self._state, self._index.loads, self._index.claims)
        return None if task.node_id is None else self._candidates.get(task.node_id)


def _reserved(spec: TaskSpec) -> Reservations:
    """What the scheduler adds up; named and counted resources are compared by `dirty`."""
    reservations = None if spec.resources is None else spec.resources.reservations
    return msgspec.structs.replace(reservations or Reservations(), generic_resources=())
