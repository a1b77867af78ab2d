"""A global service: one slot for each node that fits (`eligibility`). Pure.

Rules (SwarmKit, manager/orchestrator/global)
-----
* A node that is drained or no longer satisfies the constraints has its task stopped, and nothing
  is made elsewhere. When it fits again it gets a new task, once the old one has stopped, unless
  the restart condition is `none`.
* A node that is paused or goes down keeps its task, and gets no other when that one ends.
* Each node's slot has a restart history of its own.
"""

from essaim_master.control.effects import Effects
from essaim_master.control.eligibility import Eligibility, Fit
from essaim_master.control.index import ControlIndex, SlotName
from essaim_master.control.slot_upkeep import (
    forget_expired,
    hold_slot,
    maintain_slot,
    remove_tasks,
    shut_slot_down,
)
from essaim_master.control.slots import FRESH, Progress, Slot, examine_slot
from essaim_master.control.updater import begin_rollout, is_outdated
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.objects import Service


def reconcile_global(
    state: ClusterState,
    index: ControlIndex,
    eligibility: Eligibility,
    service: Service,
    effects: Effects,
) -> Progress:
    slots = []
    keys: dict[SlotName, None] = dict.fromkeys(index.slots.get(service.id, ()))
    keys.update(dict.fromkeys(state.nodes))
    for key in keys:
        if effects.is_full:
            return Progress.INTERRUPTED
        slot = _reconcile_node(state, index, eligibility, service, key, effects)
        if slot is not None:
            slots.append(slot)
    rollout = begin_rollout(state, index, service, slots, effects)
    for slot in slots:
        if effects.is_full:
            return Progress.INTERRUPTED
        maintain_slot(state, service, slot, effects, rollout)
    return Progress.DONE if rollout is None else rollout.advance()


def reconcile_global_slot(
    state: ClusterState,
    index: ControlIndex,
    eligibility: Eligibility,
    service: Service,
    key: SlotName,
    effects: Effects,
) -> Progress:
    slot = _reconcile_node(state, index, eligibility, service, key, effects)
    if slot is None:
        return Progress.DONE
    if is_outdated(service, slot):
        # A node that was paused during an update has yet to go through it.
        return Progress.INTERRUPTED
    maintain_slot(state, service, slot, effects)
    return Progress.DONE


def _reconcile_node(
    state: ClusterState,
    index: ControlIndex,
    eligibility: Eligibility,
    service: Service,
    key: SlotName,
    effects: Effects,
) -> Slot | None:
    """What a node needs that is not to have a task; its slot if it is."""
    tasks = index.slot_tasks(service.id, key)
    if isinstance(key, int) or key not in state.nodes:
        remove_tasks(state, tasks, effects)
        return None
    fit = eligibility.fit(service, key)
    if fit is Fit.CLOSED:
        shut_slot_down(state, tasks, effects)
        return None
    slot = examine_slot(state, key, tasks)
    if slot is None:
        forget_expired(state, tasks, effects)
        if fit is Fit.OPEN:
            effects.create(service, key, FRESH, tasks[-1] if tasks else None)
    elif fit is Fit.HELD:
        hold_slot(state, slot, effects)
    else:
        return slot
    return None
