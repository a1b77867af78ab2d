"""How a change of a service's template reaches its tasks. Pure."""

from collections.abc import Sequence

from essaim_master.control.effects import Effects
from essaim_master.control.index import SlotName
from essaim_master.control.slots import FRESH, Progress, Slot
from essaim_shared.objects import Service, Task
from essaim_shared.task_state import TaskState


def update_service(service: Service, slots: Sequence[Slot], effects: Effects) -> Progress:
    """The next step of replacing tasks that were made from an older template."""
    running_stale: list[Task] = []
    is_changing = False
    for slot in slots:
        current = slot.current
        if current is None:
            is_changing |= not slot.is_finished
        elif current.spec_version == service.spec_version:
            is_changing |= not slot.is_running
        elif slot.is_running:
            running_stale.append(current)
        else:
            is_changing = True
            _replace_idle(service, slot.key, current, effects)
    if running_stale and not is_changing:
        effects.desire(min(running_stale, key=lambda task: task.slot), TaskState.SHUTDOWN)
    return Progress.UPDATING if running_stale else Progress.DONE


def _replace_idle(service: Service, key: SlotName, stale: Task, effects: Effects) -> None:
    """Give up a task that does not run yet. One that no node knows leaves no trace."""
    if stale.node_id is None:
        effects.delete(stale.id)
        effects.create(service, key, FRESH, stale)
    else:
        effects.desire(stale, TaskState.SHUTDOWN)
