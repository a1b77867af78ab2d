"""How an update as a whole stands: its next `UpdateStatus`, and what it is told to users. Pure.

Messages are SwarmKit's where it has them (manager/orchestrator/update/updater.go).
"""

from collections.abc import Sequence

import msgspec

from essaim_master.control.update_policy import UpdatePolicy
from essaim_master.control.update_slots import Phase, SlotProgress
from essaim_master.state import keys
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.network_uses import mark_networks
from essaim_master.state.payload_uses import mark_payloads, staying_behind
from essaim_master.state.port_claims import claim_ports
from essaim_master.state.service_changes import (
    rolled_back_service,
    service_writes,
    swap_credentials,
)
from essaim_master.state.writes import Writes
from essaim_shared.objects import Service, Task, UpdateStatus

IN_PROGRESS = "update in progress"
COMPLETED = "update completed"
ROLLBACK_ASKED = "manually requested rollback"
ROLLBACK_COMPLETED = "rollback completed"


class Tally:
    """The slots of a service, counted for its update."""

    def __init__(
        self,
        state: ClusterState,
        found: Sequence[SlotProgress],
        policy: UpdatePolicy,
        quota: int,
    ) -> None:
        self.slots = len(found)
        self.quota = quota
        self._state = state
        self._found = found
        self.stale = sum(1 for one in found if one.phase in (Phase.IDLE, Phase.RUNNING))
        self.begun = self.slots - self.stale
        self.changing = sum(1 for one in found if one.phase is Phase.CHANGING)
        self.failed = [one.task for one in found if one.phase is Phase.FAILED]
        self.total = self.stale + sum(1 for one in found if _is_of_this_update(one))
        self.blocked = [one.task for one in found if one.is_blocked]
        changed = [one.changed_ns for one in found if one.is_counted and one.changed_ns]
        self.last_changed_ns = max(changed, default=0)
        self.delay_ns = policy.delay_ns

    @property
    def last_failed(self) -> Task:
        """The failure that was too many: of a task that has just ended, not of one that was
        replaced already."""
        return max(
            self.failed,
            key=lambda task: (not task.has_update_failed, self._ended_ns(task), task.id),
        )

    def _ended_ns(self, task: Task) -> int:
        status = self._state.task_status.get(task.id)
        return task.created_ns if status is None else status.timestamp_ns

    def reason_of(self, task: Task) -> str:
        """Why a task is not there yet, in the words of whoever said it last."""
        status = self._state.task_status.get(task.id)
        if status is not None and status.err:
            return status.err
        return f"it is {self._state.observed(task.id).docker_name}"


def _is_of_this_update(one: SlotProgress) -> bool:
    return one.phase is Phase.CHANGING or one.is_counted


class Decision(msgspec.Struct, frozen=True):
    status: UpdateStatus | None = None
    """Of this generation; None: there is no update. Of a rollback: what holds if it cannot be."""
    is_rolled_back: bool = False
    message: str = ""
    """Of the rollback."""
    wake_ns: int = 0
    """When time alone changes the decision; 0: never."""


def next_status(
    service: Service,
    present: UpdateStatus | None,
    tally: Tally,
    policy: UpdatePolicy,
    now_ns: int,
) -> Decision:
    """What becomes of the update; `present` is the status of the service's present generation."""
    status = _begun_status(service, present, tally, now_ns)
    if status is None or status.state not in ("updating", "rollback_started"):
        return Decision(status)
    status = msgspec.structs.replace(
        status,
        # Times ahead are of a clock that was set back, or of an earlier leader's.
        started_ns=min(status.started_ns, now_ns),
        progressed_ns=min(status.progressed_ns, now_ns),
        total=tally.total,
        failed=len(tally.failed),
    )
    if tally.last_changed_ns > status.progressed_ns:
        status = msgspec.structs.replace(status, progressed_ns=tally.last_changed_ns)
    cause, wake_ns = _failure(status, tally, policy, now_ns)
    if cause and policy.failure_action != "continue":
        return _act_on_failure(service, status, cause, policy)
    if tally.changing or (tally.stale and tally.begun < tally.quota):
        return Decision(_worth_writing(present, status), wake_ns=wake_ns)
    watched_until_ns = max(status.progressed_ns, status.started_ns) + policy.monitor_ns
    if tally.last_changed_ns and now_ns < watched_until_ns:
        return Decision(_worth_writing(present, status), wake_ns=watched_until_ns)
    if tally.stale:
        return Decision(_waiting(status, service, tally, policy))
    return Decision(_completed(status, now_ns))


def rollback_writes(state: ClusterState, service: Service, message: str, now_ns: int) -> Writes:
    """The same change as a user's rollback, with the status that says who made it. Raises
    PortTaken, UnknownPayload and NotFound when what the previous spec needs is no longer there
    for it."""
    after = staying_behind(state, rolled_back_service(service, now_ns))
    present = state.update_status.get(service.id)
    writes = service_writes(state.revisions_of(service.id), service, after)
    swap_credentials(writes, state.registry_credentials.get(service.id))
    claim_ports(writes, state, service, after)
    mark_networks(writes, state, service, after)
    mark_payloads(writes, state, service, after)
    writes.put(
        UpdateStatus(
            service_id=service.id,
            state="rollback_started",
            generation=after.generation,
            started_ns=now_ns if present is None else present.started_ns,
            progressed_ns=now_ns,
            message=message,
        )
    )
    writes.expect(keys.service_key(service.id), state.modified(keys.service_key(service.id)))
    return writes


def _begun_status(
    service: Service, present: UpdateStatus | None, tally: Tally, now_ns: int
) -> UpdateStatus | None:
    """The present status, a first one if an update begins, or one that goes on."""
    is_promoted = present is not None and present.is_waiting and service.promotions >= present.step
    if present is not None and is_promoted:
        return msgspec.structs.replace(
            present,
            state="updating",
            is_waiting=False,
            message=IN_PROGRESS,
            progressed_ns=now_ns,
        )
    has_ended = present is not None and present.state in ("completed", "rollback_completed")
    if present is not None and not (has_ended and tally.stale):
        return present
    # A node that was away during an update may bring an old task back after its end.
    if not (tally.stale or tally.changing) and not service.is_rollback:
        return None
    return UpdateStatus(
        service_id=service.id,
        state="rollback_started" if service.is_rollback else "updating",
        generation=service.generation,
        started_ns=now_ns,
        progressed_ns=now_ns,
        message=ROLLBACK_ASKED if service.is_rollback else IN_PROGRESS,
        step=service.promotions,
    )


def _failure(
    status: UpdateStatus, tally: Tally, policy: UpdatePolicy, now_ns: int
) -> tuple[str, int]:
    """Why the update has failed, or nothing and when the deadline passes."""
    if tally.failed and len(tally.failed) / tally.total > policy.max_failure_ratio:
        return f"failure or early termination of task {tally.last_failed.id}", 0
    if not tally.blocked or not policy.deadline_ns:
        return "", 0
    deadline_ns = status.progressed_ns + tally.delay_ns + policy.deadline_ns
    if now_ns < deadline_ns:
        return "", deadline_ns
    task = tally.blocked[0]
    waited_s = policy.deadline_ns / 1e9
    return f"no progress within {waited_s:g}s: task {task.id}: {tally.reason_of(task)}", 0


def _act_on_failure(
    service: Service, status: UpdateStatus, cause: str, policy: UpdatePolicy
) -> Decision:
    is_rolled_back = policy.failure_action == "rollback" and service.previous_spec is not None
    message = f"update rolled back due to {cause}"
    if policy.failure_action == "rollback" and not is_rolled_back:
        cause += " (there is no previous spec to roll back to)"
    if status.state == "rollback_started":
        state, what = "rollback_paused", "rollback"
    else:
        state, what = "paused", "update"
    paused = _moved(status, state, f"{what} paused due to {cause}")
    return Decision(paused, is_rolled_back, message if is_rolled_back else "")


def without_rollback(paused: UpdateStatus, obstacle: str) -> UpdateStatus:
    """The status of an update that failed and cannot be rolled back. Of the obstacle, which is
    said to clients in Docker's form elsewhere, the sentence alone."""
    sentence = obstacle.rpartition(" desc = ")[2]
    return _moved(paused, paused.state, f"{paused.message} (it cannot be rolled back: {sentence})")


def _waiting(
    status: UpdateStatus, service: Service, tally: Tally, policy: UpdatePolicy
) -> UpdateStatus:
    """Paused, so that Docker's clients stop waiting and say why; the slots run on."""
    step = service.promotions + 1
    message = (
        f"step {step} of {len(policy.steps)} is done: {tally.begun} of {tally.slots} tasks have "
        f"the new template; the next step waits to be promoted"
    )
    return msgspec.structs.replace(_moved(status, "paused", message), step=step, is_waiting=True)


def _completed(status: UpdateStatus, now_ns: int) -> UpdateStatus:
    if status.state == "rollback_started":
        moved = _moved(status, "rollback_completed", ROLLBACK_COMPLETED)
    else:
        moved = _moved(status, "completed", COMPLETED)
    return msgspec.structs.replace(moved, completed_ns=now_ns)


def _moved(status: UpdateStatus, state: str, message: str) -> UpdateStatus:
    return msgspec.structs.replace(status, state=state, message=message)


def _worth_writing(present: UpdateStatus | None, status: UpdateStatus) -> UpdateStatus:
    """An update that merely goes on costs no write: its counts follow from the tasks, and are
    written with its next move."""
    if present is None or present.state != status.state or present.failed != status.failed:
        return status
    was_ahead = present.started_ns > status.started_ns or (
        present.progressed_ns > status.progressed_ns
    )
    return status if was_ahead else present
