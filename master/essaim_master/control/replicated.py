"""A replicated service: how many slots, and what stands in each. Pure.

Rules
-----
* A slot is *occupied* while it has a task that is not to be removed; a service wants as many
  occupied slots as replicas. Which numbers they bear does not matter.
* Removing goes before repairing: a slot that is surplus is not given a new task first.
"""

from collections.abc import Collection

from essaim_master.control.effects import Effects
from essaim_master.control.index import ControlIndex, SlotName
from essaim_master.control.slot_upkeep import forget_expired, maintain_slot, remove_tasks
from essaim_master.control.slots import FRESH, Progress, examine_slot, surplus_slots
from essaim_master.control.updater import Rollout, begin_rollout, is_outdated
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.objects import Service


def reconcile_replicated(
    state: ClusterState, index: ControlIndex, service: Service, effects: Effects
) -> Progress:
    slots, leaving = [], []
    for number in index.slots.get(service.id, ()):
        slot = examine_slot(state, number, index.slot_tasks(service.id, number))
        if slot is None:
            leaving.append(number)
        else:
            slots.append(slot)
    for number in leaving:
        forget_expired(state, index.slot_tasks(service.id, number), effects)
    surplus = surplus_slots(slots, len(slots) - service.spec.replicas)
    for slot in surplus:
        if effects.is_full:
            return Progress.INTERRUPTED
        remove_tasks(state, slot.tasks, effects)
    if surplus:
        removed = {slot.key for slot in surplus}
        slots = [slot for slot in slots if slot.key not in removed]
    rollout = begin_rollout(state, index, service, slots, effects)
    for slot in slots:
        if effects.is_full:
            return Progress.INTERRUPTED
        maintain_slot(state, service, slot, effects, rollout)
    if not _fill(service, {slot.key for slot in slots}, effects, rollout):
        # Only a rollout knows what the slots that are still missing are made from.
        return Progress.FILLING if rollout is None else Progress.INTERRUPTED
    return Progress.DONE if rollout is None else rollout.advance()


def reconcile_replicated_slot(
    state: ClusterState, index: ControlIndex, service: Service, key: SlotName, effects: Effects
) -> Progress:
    tasks = index.slot_tasks(service.id, key)
    slot = examine_slot(state, key, tasks)
    if slot is None:
        forget_expired(state, tasks, effects)
    elif is_outdated(service, slot):
        return Progress.INTERRUPTED  # only a look at all slots tells what its update may do
    else:
        maintain_slot(state, service, slot, effects)
    return Progress.DONE


def fill_replicated(index: ControlIndex, service: Service, effects: Effects) -> Progress:
    """Go on making the tasks of a large service without looking at those that exist; what
    happens to them meanwhile comes up slot by slot."""
    if not _fill(service, index.occupied.get(service.id, {}), effects):
        return Progress.FILLING
    return Progress.INTERRUPTED  # it may have to be updated as well


def _fill(
    service: Service,
    taken: Collection[SlotName],
    effects: Effects,
    rollout: Rollout | None = None,
) -> bool:
    """Occupy the lowest free numbers until there are enough slots; False when interrupted."""
    missing = service.spec.replicas - len(taken)
    number = 0
    while missing > 0:
        number += 1
        if number in taken:
            continue
        if effects.is_full:
            return False
        template = None if rollout is None else rollout.template_of_new_slot()
        effects.create(service, number, FRESH, None, template=template)
        missing -= 1
    return True
