"""Whether a task is what its service asks for now, and what it takes to make it so. Pure.

A task whose version is the service's is clean. With another version the templates themselves are
compared, for an update may have been undone (swarmkit manager/orchestrator/task.go, IsTaskDirty).
What differs may be of a kind that a running container need not end for: rules of the masters
(restarts, placement), what the agent only looks at when it stops the task, and limits, which the
engine changes in a running container.
"""

from collections.abc import Callable
from enum import Enum

import msgspec

from essaim_master.control.effects import Template
from essaim_master.state.service_changes import host_ports
from essaim_shared.objects import Service, Task
from essaim_shared.spec import Limits, PortConfig, Reservations, Resources, TaskSpec


class Verdict(Enum):
    CLEAN = "clean"
    ADOPT = "adopt"
    """The task takes the new template over, and its container is not touched."""
    RESIZE = "resize"
    """So does it, and the engine gives the running container other limits."""
    REPLACE = "replace"


NodeFit = Callable[[Task], bool]
"""Whether a task's node may keep it under the service's present template."""


def template_of(service: Service, task: Task) -> Template:
    """What a task was made from, to make another one from it."""
    asked = host_ports(service.spec)
    # A port that is left to the scheduler stays so: the task's own is of its node.
    ports = asked if _has_ports(task.ports, asked) else task.ports
    return Template(task.spec, task.spec_version, ports)


def is_replaced_anywhere(service: Service, task: Task) -> bool:
    """Whether its template alone tells that a task of another version is replaced, whatever its
    state, its ports and its node."""
    wanted = service.spec.task
    return task.spec != wanted and not _differs_in_adoptable_parts_only(task.spec, wanted)


def verdict_on(service: Service, task: Task, *, is_running: bool, fits: NodeFit) -> Verdict:
    """What becomes of a task that is wanted. `fits` is asked only if the answer matters.

    A task that does not run yet is replaced for any difference: that costs nothing, and nobody
    has to think about a container that is just being made.
    """
    if task.spec_version == service.spec_version:
        return Verdict.CLEAN
    if not _has_ports(task.ports, host_ports(service.spec)):
        return Verdict.REPLACE
    wanted = service.spec.task
    if task.spec == wanted:
        return Verdict.ADOPT
    if not is_running or not _differs_in_adoptable_parts_only(task.spec, wanted):
        return Verdict.REPLACE
    if not fits(task):
        return Verdict.REPLACE
    is_resized = _limits(task.spec) != _limits(wanted)
    return Verdict.RESIZE if is_resized else Verdict.ADOPT


def _has_ports(present: tuple[PortConfig, ...], wanted: tuple[PortConfig, ...]) -> bool:
    """A port that was left to the scheduler is whatever it chose."""
    return len(present) == len(wanted) and all(
        had == want
        or (not want.published_port and msgspec.structs.replace(had, published_port=0) == want)
        for had, want in zip(present, wanted, strict=True)
    )


def _differs_in_adoptable_parts_only(present: TaskSpec, wanted: TaskSpec) -> bool:
    container = msgspec.structs.replace(
        present.container,
        stop_grace_period=wanted.container.stop_grace_period,
        pull_policy=wanted.container.pull_policy,
    )
    adopted = msgspec.structs.replace(
        present,
        container=container,
        restart_policy=wanted.restart_policy,
        placement=wanted.placement,
        resources=wanted.resources,
    )
    return adopted == wanted and _can_be_resized(
        present.resources or Resources(), wanted.resources or Resources()
    )


def _can_be_resized(present: Resources, wanted: Resources) -> bool:
    """Whether the engine can change a running container from the one to the other.

    `POST /containers/ID/update` takes 0 and absent for "as it is": a limit of CPU, memory or swap
    can be changed, but not taken away. Which units of a generic resource a container has was
    told to it when it was started.
    """
    before, after = present.limits or Limits(), wanted.limits or Limits()
    had, wants = present.reservations or Reservations(), wanted.reservations or Reservations()
    return (
        had.generic_resources == wants.generic_resources
        and present.memory_swappiness == wanted.memory_swappiness
        and not (present.swap_bytes is not None and wanted.swap_bytes is None)
        and not (before.nano_cpus and not after.nano_cpus)
        and not (before.memory_bytes and not after.memory_bytes)
    )


def _limits(spec: TaskSpec) -> tuple[Limits, int | None]:
    resources = spec.resources or Resources()
    return resources.limits or Limits(), resources.swap_bytes
