"""From services to tasks, by the mode of each. Pure.

| mode | slots | a task's end | module |
|---|---|---|---|
| replicated | numbers from 1, one a replica | replaced by the restart policy | `replicated` |
| global | one for each node that fits | the same | `global_services` |
| replicated job | numbers from 0, one for each completion | replaced unless it completed | `jobs` |
| global job | one for each node that fits | the same | `jobs` |
| cron | those of a replicated job, for each run | the same | `cron`, `jobs` |

What is done for one slot is the same in all modes but for jobs: `slot_upkeep`. How a change of the
template reaches the slots of services that are not jobs is `updater`'s; a changed job runs anew.
"""

from essaim_master.control.effects import Effects
from essaim_master.control.eligibility import Eligibility
from essaim_master.control.global_services import reconcile_global, reconcile_global_slot
from essaim_master.control.index import ControlIndex, SlotName
from essaim_master.control.jobs import fill_job, reconcile_job, reconcile_job_slot
from essaim_master.control.replicated import (
    fill_replicated,
    reconcile_replicated,
    reconcile_replicated_slot,
)
from essaim_master.control.slot_upkeep import remove_tasks
from essaim_master.control.slots import Progress
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.ids import ServiceId


def reconcile_service(
    state: ClusterState,
    index: ControlIndex,
    eligibility: Eligibility,
    service_id: ServiceId,
    effects: Effects,
) -> Progress:
    """Everything there is to do for one service now."""
    service = state.services.get(service_id)
    if service is None:
        for key in index.slots.get(service_id, ()):
            if effects.is_full:
                return Progress.INTERRUPTED
            remove_tasks(state, index.slot_tasks(service_id, key), effects)
        return Progress.DONE
    if service.spec.mode.is_job:
        return reconcile_job(state, index, eligibility, service, effects)
    if service.spec.mode.is_global:
        return reconcile_global(state, index, eligibility, service, effects)
    return reconcile_replicated(state, index, service, effects)


def reconcile_slot(
    state: ClusterState,
    index: ControlIndex,
    eligibility: Eligibility,
    service_id: ServiceId,
    key: SlotName,
    effects: Effects,
) -> Progress:
    """What one slot needs, its service being otherwise in order. The result says how the service
    is to be looked at after this slice."""
    service = state.services.get(service_id)
    if service is None:
        remove_tasks(state, index.slot_tasks(service_id, key), effects)
        return Progress.DONE
    if service.spec.mode.is_job:
        return reconcile_job_slot(state, index, eligibility, service, key, effects)
    if service.spec.mode.is_global:
        return reconcile_global_slot(state, index, eligibility, service, key, effects)
    return reconcile_replicated_slot(state, index, service, key, effects)


def is_job(state: ClusterState, service_id: ServiceId) -> bool:
    service = state.services.get(service_id)
    return service is not None and service.spec.mode.is_job


def fill_service(
    state: ClusterState, index: ControlIndex, service_id: ServiceId, effects: Effects
) -> Progress:
    """Only make further tasks of a service that was looked at."""
    service = state.services.get(service_id)
    if service is None or service.spec.mode.is_global:
        return Progress.DONE
    if service.spec.mode.is_job:
        return fill_job(state, index, service, effects)
    return fill_replicated(index, service, effects)
