"""What single tasks hold of their nodes, and where tasks failed lately. Pure.

A part of the control index: `refresh` is given each task that changed. Only tasks with ports,
generic resources or a failure leave a trace here, so the others cost nothing.
"""

from collections.abc import Iterable

from essaim_master.control.scheduler.host_ports import (
    PortKey,
    keys_of,
    newest_dynamic,
)
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.ids import NodeId, ServiceId, TaskId
from essaim_shared.objects import Task
from essaim_shared.spec import GenericResource
from essaim_shared.task_state import TaskState

FAILURE_WINDOW_NS = 5 * 60 * 1_000_000_000
"""How long a failure tells against its node (SwarmKit, `monitorFailures`)."""

_FAILURES = frozenset({TaskState.FAILED, TaskState.REJECTED})


class Claims:
    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._holders: dict[NodeId, dict[TaskId, Task]] = {}
        """Tasks that have not ended and hold ports or units of their node."""
        self._held_on: dict[TaskId, NodeId] = {}
        self._failed: dict[tuple[ServiceId, int], dict[TaskId, None]] = {}
        """By service and spec version: tasks of the history that failed on a node."""
        self._failed_in: dict[TaskId, tuple[ServiceId, int]] = {}
        self.newest_ports: dict[NodeId, int] = {}
        """The port that was chosen last on each node."""

    def refresh(self, task_id: TaskId) -> None:
        """Take a task's present state over."""
        task = self._state.tasks.get(task_id)
        status = self._state.task_status.get(task_id)
        has_ended = status is not None and status.state.is_terminal
        self._forget(task_id)
        if task is None or task.node_id is None:
            return
        if not has_ended and (task.ports or task.generic_resources):
            self._holders.setdefault(task.node_id, {})[task_id] = task
            self._held_on[task_id] = task.node_id
            newest = newest_dynamic(task.ports)
            if newest:
                self.newest_ports[task.node_id] = newest
        elif status is not None and status.state in _FAILURES:
            key = (task.service_id, task.spec_version)
            self._failed.setdefault(key, {})[task_id] = None
            self._failed_in[task_id] = key

    def _forget(self, task_id: TaskId) -> None:
        node_id = self._held_on.pop(task_id, None)
        if node_id is not None:
            holders = self._holders[node_id]
            del holders[task_id]
            if not holders:
                del self._holders[node_id]
        key = self._failed_in.pop(task_id, None)
        if key is not None:
            failed = self._failed[key]
            del failed[task_id]
            if not failed:
                del self._failed[key]

    def ports_on(self, node_id: NodeId) -> set[PortKey]:
        """Ports of a node that are taken."""
        tasks = self._holders.get(node_id, {}).values()
        return {key for task in tasks for key in keys_of(task.ports)}

    def ports_anywhere(self) -> set[PortKey]:
        """Ports that are taken on any node."""
        return {key for node_id in self._holders for key in self.ports_on(node_id)}

    def units_on(self, node_id: NodeId) -> Iterable[GenericResource]:
        """Units of a node that are taken."""
        tasks = self._holders.get(node_id, {}).values()
        return (unit for task in tasks for unit in task.generic_resources)

    def failures(self, service_id: ServiceId, spec_version: int, now_ns: int) -> dict[NodeId, int]:
        """How many tasks of the template failed on each node within the window.

        It is counted from the history that the state keeps, so a new leader knows it too.
        """
        found: dict[NodeId, int] = {}
        for task_id in self._failed.get((service_id, spec_version), ()):
            task, status = self._state.tasks.get(task_id), self._state.task_status.get(task_id)
            if task is None or task.node_id is None or status is None:
                continue
            if status.timestamp_ns > now_ns - FAILURE_WINDOW_NS:
                found[task.node_id] = found.get(task.node_id, 0) + 1
        return found
