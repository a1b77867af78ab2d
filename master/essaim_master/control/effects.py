"""What the orchestrator decided, before nodes and addresses are chosen. Pure."""

import random
from dataclasses import dataclass, field

import msgspec

from essaim_master.control.index import SlotName
from essaim_master.control.restart import Replacement
from essaim_master.state.service_changes import host_ports
from essaim_master.state.writes import Writes
from essaim_shared.ids import ServiceId, TaskId, new_id
from essaim_shared.objects import CronStatus, Service, Task, TaskStatus, UpdateStatus
from essaim_shared.spec import PortConfig, TaskSpec
from essaim_shared.task_state import TaskState


class Template(msgspec.Struct, frozen=True):
    """What a task is made from, where that is not the service's present spec: the tasks of a run
    under way go on as the run began."""

    spec: TaskSpec
    spec_version: int
    ports: tuple[PortConfig, ...]


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
    statuses: dict[TaskId, TaskStatus] = field(default_factory=dict)
    """Observed states that no agent will report any more."""
    update_status: dict[ServiceId, UpdateStatus] = field(default_factory=dict)
    cron_status: dict[ServiceId, CronStatus] = field(default_factory=dict)
    """Written before the tasks of the slice: a run is claimed before it has any."""
    rollbacks: dict[ServiceId, Writes] = field(default_factory=dict)
    """A change of a service itself, each committed in a transaction of its own and guarded by
    whoever made it with `Writes.expect`: it must not take the slice down with it."""
    wakes: dict[ServiceId, int] = field(default_factory=dict)
    """Wall time at which a service must be looked at again though nothing has changed."""

    @property
    def is_full(self) -> bool:
        return len(self.created) + len(self.updated) + len(self.deleted) >= self.limit

    def create(
        self,
        service: Service,
        slot: SlotName,
        replacement: Replacement,
        newest: Task | None,
        *,
        iteration: int | None = None,
        template: Template | None = None,
        has_update_failed: bool = False,
        begins_update: bool = False,
    ) -> Task:
        """A new task for a slot, younger than every other of the slot whatever the clock says
        (a new leader's may be behind). `iteration` is that of a job. One whose slot is a node is
        bound to that node. `newest` hands on what it bears of the update that made it, unless the
        update of the present generation `begins` with the slot."""
        created_ns = self.now_ns if newest is None else max(self.now_ns, newest.created_ns + 1)
        is_delayed = replacement.not_before_ns > self.now_ns
        wanted = TaskState.RUNNING if iteration is None else TaskState.COMPLETE
        spec_version = service.spec_version if template is None else template.spec_version
        update_generation = 0
        if begins_update:
            update_generation = service.generation
        elif newest is not None and newest.spec_version == spec_version:
            update_generation = newest.update_generation
            has_update_failed = has_update_failed or newest.has_update_failed
        else:
            has_update_failed = False
            if newest is not None and iteration is None:
                update_generation = service.generation
        task = Task(
            id=TaskId(new_id(self.rng)),
            service_id=service.id,
            service_name=service.spec.name,
            service_labels=service.spec.labels,
            slot=slot if isinstance(slot, int) else 0,
            target_node=None if isinstance(slot, int) else slot,
            spec=service.spec.task if template is None else template.spec,
            spec_version=spec_version,
            desired_state=TaskState.READY if is_delayed else wanted,
            created_ns=created_ns,
            updated_ns=created_ns,
            not_before_ns=replacement.not_before_ns if is_delayed else 0,
            failures=replacement.failures,
            restarts_ns=replacement.restarts_ns,
            iteration=iteration,
            ports=host_ports(service.spec) if template is None else template.ports,
            update_generation=update_generation,
            has_update_failed=has_update_failed,
        )
        self.created[task.id] = task
        return task

    def start(self, task: Task) -> Task:
        """Let a delayed task run; the changed task."""
        is_job = task.iteration is not None
        return self.desire(task, TaskState.COMPLETE if is_job else TaskState.RUNNING)

    def desire(self, task: Task, desired: TaskState) -> Task:
        """Order a task to another state; the changed task."""
        changed = msgspec.structs.replace(task, desired_state=desired, updated_ns=self.now_ns)
        self.updated[task.id] = changed
        return changed

    def adopt(self, task: Task, service: Service, *, is_resized: bool) -> None:
        """Let a task take its service's present template over without a new container. One that
        is resized counts as changed by the update."""
        changed = msgspec.structs.replace(
            task,
            spec=service.spec.task,
            spec_version=service.spec_version,
            updated_ns=self.now_ns,
        )
        if is_resized:
            changed = msgspec.structs.replace(
                changed,
                update_generation=service.generation,
                has_update_failed=False,
                adopted_ns=self.now_ns,
            )
        self.updated[task.id] = changed

    def delete(self, task_id: TaskId) -> None:
        self.updated.pop(task_id, None)
        self.deleted[task_id] = None

    def wake(self, service_id: ServiceId, at_ns: int) -> None:
        """Look at the service again at that wall time, or earlier if somebody asked for that."""
        self.wakes[service_id] = min(at_ns, self.wakes.get(service_id, at_ns))
