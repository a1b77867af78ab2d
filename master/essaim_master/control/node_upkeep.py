"""What nodes that changed, or that stay away, mean for the tasks on them. Pure.

Two rules, applied to the nodes that were noted and to all of them at the start of a term:

* tasks that their node suits no more are ordered to stop (`constraint_enforcer`);
* tasks of a node that has been down for a day are ORPHANED: nobody waits for a word of them any
  more, and they are history like others that ended.
"""

import msgspec

from essaim_master.control.conditions import NodeCondition, condition_of
from essaim_master.control.constraint_enforcer import UNFIT_REASON, Demands, unfit_tasks
from essaim_master.control.effects import Effects
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.manager_nodes import NodeRole, masters_beside
from essaim_shared.ids import NodeId
from essaim_shared.objects import TaskStatus
from essaim_shared.task_state import TaskState

ORPHANED_AFTER_NS = 24 * 3600 * 1_000_000_000
"""SwarmKit's `defaultNodeDownPeriod`."""

ORPHANED_MESSAGE = "orphaned"
ORPHANED_REASON = "the task's node has been down for 24 hours"

TASKS_LOOKED_AT_MAX = 2_000
"""In one slice, so that a full pass over a large cluster blocks nobody: about 5 ms."""


class NodeUpkeep:
    """The nodes to look at, and when those that are down are given up."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._noted: dict[NodeId, None] = {}
        self._given_up_ns: dict[NodeId, int] = {}
        """Wall time at which the tasks of each node that is down become orphans."""
        self.add_everything()

    def __bool__(self) -> bool:
        return bool(self._noted)

    def add_everything(self) -> None:
        for node_id in self._state.nodes:
            self.note(node_id)

    def note(self, node_id: NodeId) -> None:
        """The node changed, or something that its role follows from."""
        self._noted[node_id] = None
        self._given_up_ns.pop(node_id, None)
        if condition_of(self._state, node_id) is NodeCondition.DOWN:
            down_ns = self._state.node_status[node_id].changed_ns
            self._given_up_ns[node_id] = down_ns + ORPHANED_AFTER_NS

    def add_due(self, now_ns: int) -> None:
        due = [node_id for node_id, due_ns in self._given_up_ns.items() if due_ns <= now_ns]
        self._noted.update(dict.fromkeys(due))

    def next_due_ns(self) -> int | None:
        return min(self._given_up_ns.values(), default=None)

    def work_off(self, effects: Effects) -> None:
        """Look at the noted nodes, as far as the slice has room for it."""
        if not self._noted:
            return
        masters = [member for member in self._state.members.values() if not member.removed_ns]
        managers = masters_beside(masters, self._state.node_status)
        demands: Demands = {}
        looked_at = 0
        for node_id in list(self._noted):
            if looked_at >= TASKS_LOOKED_AT_MAX:
                return
            if effects.is_full or len(effects.statuses) >= effects.limit:
                return
            del self._noted[node_id]
            looked_at += len(self._state.tasks_on_node(node_id))
            due_ns = self._given_up_ns.get(node_id)
            if due_ns is not None and due_ns <= effects.now_ns:
                del self._given_up_ns[node_id]
                self._orphan(node_id, effects)
            role: NodeRole = "manager" if node_id in managers else "worker"
            for task in unfit_tasks(self._state, node_id, role, demands):
                if task.id in effects.updated or task.id in effects.deleted:
                    self._noted[node_id] = None  # it is being changed: look again after that
                else:
                    stopped = msgspec.structs.replace(task, stop_reason=UNFIT_REASON)
                    effects.desire(stopped, TaskState.SHUTDOWN)

    def _orphan(self, node_id: NodeId, effects: Effects) -> None:
        for task_id in self._state.tasks_on_node(node_id):
            if self._state.observed(task_id).is_terminal:
                continue
            before = self._state.task_status.get(task_id)
            if before is None:
                before = TaskStatus(state=TaskState.ASSIGNED, timestamp_ns=effects.now_ns)
            effects.statuses[task_id] = msgspec.structs.replace(
                before,
                state=TaskState.ORPHANED,
                timestamp_ns=effects.now_ns,
                message=ORPHANED_MESSAGE,
                err=ORPHANED_REASON,
            )
