"""How a change of a service's template reaches its tasks. Pure.

Rules
-----
* As many slots as `parallelism` allows are changed at the same time. A slot that is done, and has
  rested for `delay`, makes room for the next one at once: there are no batches that wait for
  their slowest.
* stop-first: the old task is ordered to stop, and its end brings the new one. start-first: the new
  one is made beside the old, which is stopped once the new one runs and is ready.
* Slots that do not run are changed at once: that costs no availability, and it is how a broken
  template is repaired.
* What can be adopted without a new container is adopted at once (`dirty`).
* An update that is paused, or waits for a promotion, brings nobody the new template: a task that
  ends meanwhile is followed by one of its own template.
* More failures than `max_failure_ratio` of the slots that were to be changed, or no progress
  within the deadline, end the update by its failure action.

Everything is read from the tasks and the `UpdateStatus`, so a new leader goes on where the old one
was. Of one generation of the service the status moves like this:

    (none) ------> updating ---> completed              rollback_started ---> rollback_completed
                    |   ^
                    v   | promoted                      rollback_started ---> rollback_paused
                   paused

A rollback by the failure action makes a new generation of the service, which begins with
`rollback_started`. Source: swarmkit manager/orchestrator/update/updater.go; the deadline is that of
Kubernetes' Deployments, the steps with promotion are Nomad's canaries.
"""

from collections.abc import Sequence

from essaim_master.control.conditions import LOST, condition_of
from essaim_master.control.dirty import (
    Verdict,
    is_replaced_anywhere,
    template_of,
    verdict_on,
)
from essaim_master.control.effects import Effects, Template
from essaim_master.control.index import ControlIndex, SlotName
from essaim_master.control.restart import Replacement, ended_early, is_due, replacement_of
from essaim_master.control.slots import FRESH, Progress, Slot
from essaim_master.control.update_fit import NodeRoom
from essaim_master.control.update_policy import policy_of
from essaim_master.control.update_slots import Phase, SlotProgress, progress_of
from essaim_master.control.update_slots import ended_early as failed_early
from essaim_master.control.update_verdict import (
    Tally,
    next_status,
    rollback_writes,
    without_rollback,
)
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.errors import PortTaken, UnknownPayload
from essaim_shared.errors import NotFound
from essaim_shared.objects import Service, Task, UpdateStatus
from essaim_shared.spec import TaskSpec
from essaim_shared.task_state import TaskState

ACTIVE = frozenset({"updating", "rollback_started"})
"""States of an update in which slots are changed."""

PAUSED = frozenset({"paused", "rollback_paused"})


def is_outdated(service: Service, slot: Slot) -> bool:
    """Whether the slot stands for another template than the service's."""
    return (slot.current or slot.youngest).spec_version != service.spec_version


def begin_rollout(
    state: ClusterState,
    index: ControlIndex,
    service: Service,
    slots: Sequence[Slot],
    effects: Effects,
) -> "Rollout | None":
    """The rollout of a service that is in an update, or is to be; None for all others."""
    if not _is_updating(state, service, slots):
        return None
    return Rollout(state, index, service, slots, effects)


def _is_updating(state: ClusterState, service: Service, slots: Sequence[Slot]) -> bool:
    """Whether there is anything for an updater to look at: tasks of another template, or an
    update of this generation that has not ended."""
    status = state.update_status.get(service.id)
    if status is not None and status.generation == service.generation:
        if status.state in ACTIVE:
            return True
    elif service.is_rollback:
        return True
    return any(is_outdated(service, slot) for slot in slots)


class Rollout:
    """One look at a service in its update. What each slot may do is settled when it is made; the
    orchestrator asks while it maintains the slots, and then lets it `advance`."""

    def __init__(
        self,
        state: ClusterState,
        index: ControlIndex,
        service: Service,
        slots: Sequence[Slot],
        effects: Effects,
    ) -> None:
        self._state = state
        self._service = service
        self._effects = effects
        self._policy = policy_of(service)
        self._room = NodeRoom(state, index, service)
        self._replaced: dict[int, TaskSpec] = {}
        self._found = [
            progress_of(state, service, slot, self._policy, effects.now_ns)
            for slot in sorted(slots, key=_order)
        ]
        self._adopt_at_once()
        self._give_up_blocked()
        wanted = max(len(slots), service.spec.replicas)
        self._quota = self._policy.quota(wanted, service.promotions)
        self._status = self._decide()
        self._is_active = self._status is not None and self._status.state in ACTIVE
        self._is_paused = self._status is None or (
            self._status.state in PAUSED and not self._status.is_waiting
        )
        self._begun = self._count(Phase.FRESH, Phase.CHANGING, Phase.CHANGED, Phase.FAILED)
        self._busy = self._count(Phase.CHANGING)
        self._held: dict[SlotName, Template] = {}
        self._allot_idle_slots()

    def companion(self, slot: Slot) -> Task | None:
        """A second task that the slot keeps beside its current one: the new one of a start-first
        update, alive or waiting for its delay."""
        current, newest = slot.current, slot.youngest
        version = self._service.spec_version
        if current is None or newest is current or newest.spec_version != version:
            return None
        if current.spec_version == version or self._is_paused:
            return None
        if slot.successor is newest or self._waits(newest):
            return newest
        return None

    def held_template(self, slot: Slot) -> Template | None:
        """What a new task of the slot is made from while the update does not reach it; None: the
        service's present template."""
        return self._held.get(slot.key)

    def template_of_new_slot(self) -> Template | None:
        """What the next slot that is added is made from: beyond the step that was reached, and in
        a pause, the template of the others. None: the service's present one."""
        if not self._is_paused and self._begun < self._quota:
            self._begun += 1
            return None
        stale = next((f.task for f in self._found if f.phase in (Phase.IDLE, Phase.RUNNING)), None)
        return None if stale is None else template_of(self._service, stale)

    def has_failed(self, task: Task) -> bool:
        """Whether the one that follows this task bears that the update has failed in its slot."""
        status = self._state.task_status.get(task.id)
        return task.has_update_failed or failed_early(task, status, self._policy.monitor_ns)

    def advance(self) -> Progress:
        """Take the next steps, as far as the slice has room, and say when to look again."""
        if self._is_paused:
            return Progress.UPDATING
        for found in self._found:
            if self._effects.is_full:
                return Progress.INTERRUPTED
            self._advance_slot(found)
        self._ask_for_wakes()
        return Progress.UPDATING

    def _advance_slot(self, found: SlotProgress) -> None:
        slot = found.slot
        match found.phase:
            case Phase.IDLE if slot.key not in self._held and slot.current is not None:
                self._replace_idle(slot, slot.current)
            case Phase.RUNNING if self._has_worker():
                self._begun += 1
                self._begin(slot, found.task)
            case Phase.CHANGING | Phase.FAILED if slot.successor is found.task:
                if found.task.desired_state is TaskState.READY and is_due(
                    found.task, self._effects.now_ns
                ):
                    self._effects.start(found.task)
            case Phase.FAILED if slot.current is not None and slot.current is not found.task:
                self._retry_beside(slot, found.task)
            case _:
                pass

    def _has_worker(self) -> bool:
        is_allowed = self._is_active and self._begun < self._quota
        return is_allowed and (
            not self._policy.parallelism or self._busy < self._policy.parallelism
        )

    def _begin(self, slot: Slot, task: Task) -> None:
        if self._verdict(task) is Verdict.RESIZE:
            self._effects.adopt(task, self._service, is_resized=True)
            self._busy += self._policy.delay_ns > 0
            # No report will follow: look again once this is written.
            self._effects.wake(self._service.id, self._effects.now_ns + 1)
            return
        self._busy += 1
        self._watch_deadline()
        if self._policy.is_start_first:
            # The slot's youngest may be a failure of an earlier generation (of before a scaling):
            # did the new one count as that one's, its own failure would be nobody's, and the next
            # were made at once, for ever.
            newest = slot.tasks[-1]
            self._effects.create(self._service, slot.key, FRESH, newest, begins_update=True)
        else:
            self._effects.desire(task, TaskState.SHUTDOWN)

    def _retry_beside(self, slot: Slot, failed: Task) -> None:
        """The new task of a start-first slot failed, and the update went on or has ended: the
        restart policy tells whether and when the next one is made. The old task runs on."""
        if self._waits(failed):
            return
        status = self._state.task_status.get(failed.id)
        is_lost = condition_of(self._state, failed.node_id) in LOST
        replacement = replacement_of(failed, status, is_lost, self._effects.now_ns)
        if replacement is not None:
            self._make_next(slot, replacement, failed)

    def _make_next(self, slot: Slot, replacement: Replacement, failed: Task) -> None:
        self._effects.create(
            self._service, slot.key, replacement, slot.tasks[-1], has_update_failed=True
        )

    def _replace_idle(self, slot: Slot, stale: Task) -> None:
        """Give up a task that does not run yet. One that no node knows leaves no trace."""
        if stale.node_id is None:
            self._effects.delete(stale.id)
            self._effects.create(self._service, slot.key, FRESH, stale)
        else:
            self._effects.desire(stale, TaskState.SHUTDOWN)

    def _waits(self, task: Task) -> bool:
        return ended_early(task, self._state.task_status.get(task.id), self._effects.now_ns)

    # What is settled when it is made.

    def _adopt_at_once(self) -> None:
        """Tasks that need nothing but the new version are no part of the rollout."""
        for found in list(self._found):
            if found.phase not in (Phase.RUNNING, Phase.IDLE):
                continue
            task = found.slot.current
            if task is not None and self._verdict(task) is Verdict.ADOPT:
                self._effects.adopt(task, self._service, is_resized=False)
                found.phase = Phase.FRESH

    def _give_up_blocked(self) -> None:
        """Under `continue` the deadline holds for each slot: a worker that has waited so long
        takes the next one."""
        deadline_ns = self._policy.deadline_ns
        if self._policy.failure_action != "continue" or not deadline_ns:
            return
        for found in self._found:
            if not found.is_blocked:
                continue
            until_ns = found.task.updated_ns + deadline_ns
            if self._effects.now_ns < until_ns:
                self._effects.wake(self._service.id, until_ns)
            else:
                found.phase, found.is_counted, found.is_blocked = Phase.FAILED, True, False

    def _verdict(self, task: Task) -> Verdict:
        # The tasks of one version have one template, and comparing two that are equal is quick.
        if self._replaced.get(task.spec_version) == task.spec:
            return Verdict.REPLACE
        if task.spec_version != self._service.spec_version and is_replaced_anywhere(
            self._service, task
        ):
            self._replaced[task.spec_version] = task.spec
            return Verdict.REPLACE
        is_running = self._state.observed(task.id) is TaskState.RUNNING
        return verdict_on(self._service, task, is_running=is_running, fits=self._room.fits)

    def _decide(self) -> UpdateStatus | None:
        """The status of this generation as it stands after this look."""
        state, service, effects = self._state, self._service, self._effects
        present = state.update_status.get(service.id)
        if present is not None and present.generation != service.generation:
            present = None
        tally = Tally(state, self._found, self._policy, self._quota)
        decided = next_status(service, present, tally, self._policy, effects.now_ns)
        status = decided.status
        if decided.is_rolled_back and status is not None:
            try:
                effects.rollbacks[service.id] = rollback_writes(
                    state, service, decided.message, effects.now_ns
                )
                return None
            except (PortTaken, UnknownPayload, NotFound) as obstacle:
                status = without_rollback(status, str(obstacle))
        if status is not None and status != present:
            effects.update_status[service.id] = status
        if decided.wake_ns:
            effects.wake(service.id, decided.wake_ns)
        return status

    def _allot_idle_slots(self) -> None:
        """Which slots without a running task get the new template now."""
        for found in self._found:
            if found.phase is not Phase.IDLE:
                continue
            if self._is_active and self._begun < self._quota:
                self._begun += 1
                self._busy += 1
                self._watch_deadline()
            else:
                self._held[found.slot.key] = template_of(self._service, found.task)

    def _watch_deadline(self) -> None:
        """A slot is begun: if nothing is ever heard of it, the deadline passes."""
        policy, now_ns = self._policy, self._effects.now_ns
        if policy.deadline_ns and self._status is not None:
            since_ns = self._status.progressed_ns + policy.delay_ns
            if policy.failure_action == "continue":
                since_ns = now_ns
            self._effects.wake(self._service.id, max(since_ns + policy.deadline_ns, now_ns + 1))

    def _count(self, *phases: Phase) -> int:
        return sum(1 for found in self._found if found.phase in phases)

    def _ask_for_wakes(self) -> None:
        """Look again when a slot has rested."""
        now_ns = self._effects.now_ns
        for found in self._found:
            if found.phase is Phase.CHANGING and not found.is_blocked:
                self._effects.wake(
                    self._service.id, max(found.changed_ns + self._policy.delay_ns, now_ns + 1)
                )


def _order(slot: Slot) -> tuple[int, str]:
    """The lowest number first; nodes by their ids."""
    return (slot.key, "") if isinstance(slot.key, int) else (0, slot.key)
