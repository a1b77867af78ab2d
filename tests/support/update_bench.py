"""A service on the control stage that is updated, and what its users would see of it."""

from typing import Any

import msgspec
from support.control_stage import Stage

from essaim_master.state.service_changes import (
    changed_service,
    promoted_service,
    swapped_service,
)
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.ids import ServiceId
from essaim_shared.objects import Service, Task, UpdateStatus
from essaim_shared.spec import (
    GlobalMode,
    ReplicatedMode,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from essaim_shared.task_state import TaskState

SECOND_NS = 1_000_000_000


class UpdateBench:
    """One service `web`, on as many nodes as asked for; its agents start good images at once."""

    def __init__(
        self,
        replicas: int | None = 4,
        *,
        nodes: int = 3,
        image: str = "good:1",
        restart: RestartPolicy | None = None,
        rollback: UpdateConfig | None = None,
        seed: int = 1,
        task: dict[str, Any] | None = None,
        **update: Any,
    ) -> None:
        """`replicas` None: a global service. `update` is the update configuration."""
        self.stage = Stage(seed=seed)
        self.id = ServiceId("service-web")
        self.down_max = 0
        """The most slots without a task that is ready, since the last update."""
        self.surplus_max = 0
        """The most tasks that were alive beyond one for each slot."""
        self._is_watching = False
        for number in range(1, nodes + 1):
            self.stage.add_node(f"n{number}", {})
        mode = ServiceMode(replicated=ReplicatedMode(replicas=replicas))
        if replicas is None:
            mode = ServiceMode(global_=GlobalMode())
        self.stage.put(
            Service(
                id=self.id,
                spec=ServiceSpec(
                    name="web",
                    mode=mode,
                    task=TaskSpec(
                        container=ContainerSpec(image=image),
                        restart_policy=restart,
                        **(task or {}),
                    ),
                    update_config=UpdateConfig(**update) if update else None,
                    rollback_config=rollback,
                ),
                created_ns=self.stage.now_ns,
                updated_ns=self.stage.now_ns,
            )
        )
        self.stage.checks.append(self._watch)
        self.stage.settle()

    # What users do. Nothing else happens until the time moves or the stage settles.

    def update(self, image: str | None = None, **task: Any) -> None:
        """Another image, or other fields of the task."""
        template = self.service.spec.task
        if image is not None:
            container = msgspec.structs.replace(template.container, image=image)
            template = msgspec.structs.replace(template, container=container)
        self.change(task=msgspec.structs.replace(template, **task))

    def configure(self, **update: Any) -> None:
        self.change(update_config=UpdateConfig(**update))

    def scale(self, replicas: int) -> None:
        self.change(mode=ServiceMode(replicated=ReplicatedMode(replicas=replicas)))

    def change(self, **spec: Any) -> None:
        changed = msgspec.structs.replace(self.service.spec, **spec)
        self._put(changed_service(self.service, changed, self.stage.now_ns))

    def rollback(self) -> None:
        self._put(swapped_service(self.service, self.stage.now_ns))

    def promote(self) -> None:
        self._put(promoted_service(self.service, self.stage.now_ns))

    def advance(self, seconds: float) -> None:
        self.stage.advance(seconds)

    # What they see.

    @property
    def service(self) -> Service:
        return self.stage.state.services[self.id]

    @property
    def status(self) -> UpdateStatus | None:
        """Of the present generation."""
        status = self.stage.state.update_status.get(self.id)
        is_present = status is not None and status.generation == self.service.generation
        return status if is_present else None

    @property
    def state(self) -> str:
        return "" if self.status is None else self.status.state

    @property
    def message(self) -> str:
        """The task's id being drawn at random, its name stands for it."""
        return "" if self.status is None else self.stage.plain(self.status.message)

    @property
    def tasks(self) -> list[Task]:
        found = self.stage.state.tasks_of_service(self.id).values()
        return sorted(found, key=lambda task: (str(task.slot_key), task.created_ns))

    @property
    def live(self) -> list[Task]:
        """Tasks on nodes that may be running, or that run."""
        return [
            task
            for task in self.tasks
            if task.node_id is not None and not self.stage.state.observed(task.id).is_terminal
        ]

    @property
    def running(self) -> list[Task]:
        return [t for t in self.live if self.stage.state.observed(t.id) is TaskState.RUNNING]

    @property
    def images(self) -> list[str]:
        """Of what runs, by slot."""
        return [task.spec.container.image for task in self.running]

    def _put(self, service: Service) -> None:
        self.stage.put(service)
        self.down_max = self.surplus_max = 0
        self._is_watching = True

    def _watch(self, stage: Stage) -> None:
        """After every transaction."""
        if not self._is_watching or self.id not in stage.state.services:
            return
        serving = {
            task.slot_key
            for task in self.running
            if task.is_wanted and stage.state.task_status[task.id].is_ready
        }
        slots = {task.slot_key for task in self.live} | serving
        wanted = self.service.spec.replicas or len(stage.state.nodes)
        self.down_max = max(self.down_max, wanted - len(serving))
        self.surplus_max = max(self.surplus_max, len(self.live) - len(slots))
