"""What the orchestrator decided, before nodes and addresses are chosen. Pure."""

import random
from dataclasses import dataclass, field

import msgspec

from essaim_master.control.restart import Replacement
from essaim_shared.ids import TaskId, new_id
from essaim_shared.objects import Service, Task
from essaim_shared.task_state import TaskState


@dataclass(slots=True)
class Effects:
    """Collected over one slice of work. `limit` bounds the slice: whoever collects stops at the
    limit and comes again, so that no slice blocks the event loop for long."""

    now_ns: int
    rng: random.Random
    limit: int
    created: dict[TaskId, Task] = field(default_factory=dict)
    """New tasks, without node and addresses."""
    updated: dict[TaskId, Task] = field(default_factory=dict)
    deleted: dict[TaskId, None] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        return len(self.created) + len(self.updated) + len(self.deleted) >= self.limit

    def create(
        self, service: Service, slot: int, replacement: Replacement, newest: Task | None
    ) -> None:
        """A new task for a slot, younger than every other of the slot whatever the clock says
        (a new leader's may be behind)."""
        created_ns = self.now_ns if newest is None else max(self.now_ns, newest.created_ns + 1)
        is_delayed = replacement.not_before_ns > self.now_ns
        task = Task(
            id=TaskId(new_id(self.rng)),
            service_id=service.id,
            service_name=service.spec.name,
            service_labels=service.spec.labels,
            slot=slot,
            spec=service.spec.task,
            spec_version=service.spec_version,
            desired_state=TaskState.READY if is_delayed else TaskState.RUNNING,
            created_ns=created_ns,
            updated_ns=created_ns,
            not_before_ns=replacement.not_before_ns if is_delayed else 0,
            failures=replacement.failures,
        )
        self.created[task.id] = task

    def desire(self, task: Task, desired: TaskState) -> Task:
        """Order a task to another state; the changed task."""
        changed = msgspec.structs.replace(task, desired_state=desired, updated_ns=self.now_ns)
        self.updated[task.id] = changed
        return changed

    def delete(self, task_id: TaskId) -> None:
        self.updated.pop(task_id, None)
        self.deleted[task_id] = None
