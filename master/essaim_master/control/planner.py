"""One slice of the leader's work: orchestrate, schedule, allocate; one batch of writes. Pure.

A new task is written once, with its node and addresses, so from a service's creation to the
agents' orders there is one round of Raft. A slice is bounded (`SLICE_EFFECTS_MAX`): what does not
fit stays on the worklist, and the next slice sees the state with this one applied.
"""

import random
from collections.abc import Container

from essaim_master.control.allocator import Cursors
from essaim_master.control.effects import Effects
from essaim_master.control.eligibility import Eligibility
from essaim_master.control.network_mtu import outdated_networks
from essaim_master.control.orchestrator import (
    fill_service,
    is_job,
    reconcile_service,
    reconcile_slot,
)
from essaim_master.control.placer import Placer
from essaim_master.control.service_addresses import ServiceAllocator
from essaim_master.control.worklist import Worklist
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.keys import ingress_port_key, network_key
from essaim_master.state.writes import Writes
from essaim_shared.ids import ServiceId

SLICE_EFFECTS_MAX = 250
"""Tasks made, changed or deleted in one slice: about 15 ms of Python."""


def plan_slice(
    state: ClusterState,
    worklist: Worklist,
    cursors: Cursors,
    rng: random.Random,
    now_ns: int,
    limit: int = SLICE_EFFECTS_MAX,
) -> Writes:
    """Take work off the list and decide it. Empty writes on an empty list mean: all is in order."""
    worklist.add_due(now_ns)
    effects = Effects(now_ns=now_ns, rng=rng, limit=limit)
    _orchestrate(state, worklist, effects)
    worklist.nodes.work_off(effects)
    worklist.rollbacks.update(effects.rollbacks)
    worklist.followers.work_off(worklist.rollbacks, now_ns)
    addresses = ServiceAllocator(state, worklist, cursors, limit)
    addresses.work_off(task.service_id for task in effects.created.values())
    placer = Placer(state, worklist, cursors, effects, addresses)
    placer.place_groups()
    placer.release_gateways()
    writes = Writes()
    for cron_status in effects.cron_status.values():
        writes.put(cron_status)
    for update_status in effects.update_status.values():
        writes.put(update_status)
    _fit_mtu(state, worklist, writes)
    addresses.add_writes(writes)
    placer.add_writes(writes)
    addresses.add_releases(writes)
    _sweep(state, worklist, addresses.granted, writes)
    return writes


def _fit_mtu(state: ClusterState, worklist: Worklist, writes: Writes) -> None:
    """Let the networks follow the nodes' interfaces. The API may delete a network at the same
    moment: it must not come back by this."""
    if not worklist.is_mtu_due:
        return
    worklist.is_mtu_due = False
    attached = {network_id for network_id, _ in worklist.index.attached}
    for network in outdated_networks(state, attached):
        key = network_key(network.id)
        writes.guard(key, state.modified(key))
        writes.put(network)


def _sweep(
    state: ClusterState, worklist: Worklist, granted: Container[str], writes: Writes
) -> None:
    """Delete what a service that is gone has left behind, but for ports that another one has got
    in this slice."""
    for service_id in worklist.leftovers:
        if service_id in state.services:
            continue
        revisions = state.revisions_of(service_id)
        is_left = (
            revisions
            or service_id in state.service_addresses
            or service_id in state.update_status
            or service_id in state.cron_status
            or service_id in state.registry_credentials
        )
        if is_left:
            writes.delete_belongings(service_id, revisions)
        for port_id, claim in worklist.addresses.index.claims.get(service_id, {}).items():
            if port_id in granted:
                continue
            key = ingress_port_key(claim.protocol, claim.number)
            writes.guard(key, state.modified(key))
            writes.delete_ingress_port(claim.protocol, claim.number)
    worklist.leftovers.clear()


def _orchestrate(state: ClusterState, worklist: Worklist, effects: Effects) -> None:
    """Decide for whole services first, then for single slots. The state does not move during a
    slice, so no slot may be looked at twice: it would be given two tasks."""
    looked_at = set()
    eligibility = Eligibility(state)
    index = worklist.index
    for service_id in list(worklist.services):
        if effects.is_full:
            break
        looked_at.add(service_id)
        del worklist.services[service_id]
        worklist.filling.pop(service_id, None)
        worklist.updating.discard(service_id)
        progress = reconcile_service(state, index, eligibility, service_id, effects)
        worklist.wake_at(service_id, effects.wakes.get(service_id))
        worklist.put_back(service_id, progress)
    for service_id in list(worklist.filling):
        if effects.is_full:
            break
        if service_id not in worklist.services and not is_job(state, service_id):
            del worklist.filling[service_id]
            worklist.put_back(service_id, fill_service(state, index, service_id, effects))
    tended = set()
    for service_id, key in list(worklist.slots):
        if effects.is_full:
            break
        del worklist.slots[service_id, key]
        if service_id not in looked_at:
            tended.add(service_id)
            progress = reconcile_slot(state, index, eligibility, service_id, key, effects)
            worklist.put_back(service_id, progress)
    _fill_jobs(state, worklist, looked_at | tended, effects)
    for service_id, at_ns in effects.wakes.items():
        if service_id not in looked_at:
            worklist.wake_at(service_id, at_ns)


def _fill_jobs(
    state: ClusterState, worklist: Worklist, touched: set[ServiceId], effects: Effects
) -> None:
    """Last of all, and only for jobs that this slice has left alone: how many slots of a job are
    at work is known when none of them waits to be looked at."""
    for service_id in list(worklist.filling):
        if effects.is_full:
            break
        if service_id not in touched and service_id not in worklist.services:
            del worklist.filling[service_id]
            progress = fill_service(state, worklist.index, service_id, effects)
            worklist.put_back(service_id, progress)
