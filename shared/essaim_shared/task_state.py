"""The life of a task, numbered as SwarmKit numbers it (api/types.proto, TaskState).

The observed state only grows: it is a Lamport clock, so of two reports the greater is right
and a late one loses by comparison. Gaps of 64 leave room for states to come.

| observed state | written by | when |
|---|---|---|
| NEW | orchestrator | it has made the task (there is no status yet) |
| PENDING | scheduler | no node suits it; with the reason |
| ASSIGNED | scheduler | it waited, and has a node now |
| ACCEPTED … STARTING | agent | the order has come; it is prepared; it is started |
| RUNNING | agent | its process runs, and its start-up and health checks have passed |
| COMPLETE | agent | it ended with 0, by itself |
| SHUTDOWN | agent | it ended because it was ordered to |
| FAILED, REJECTED | agent | it ended otherwise; it could not be started |
| ORPHANED | node upkeep | its node was down for too long, or was removed |

From ASSIGNED on the observed state belongs to the agent, but for the last line. The desired state
belongs to the masters alone:

| desired state | by | of |
|---|---|---|
| READY | restart policy | a replacement whose delay has not passed: it is prepared, not started |
| RUNNING | orchestrator | a task of a service, to run for ever |
| COMPLETE | orchestrator | a task of a job, to run until it ends; it stays so when it has |
| SHUTDOWN | orchestrator, updater, node upkeep | a task that was replaced or has lost its place |
| REMOVE | orchestrator | a task that nobody wants to remember: its service or slot is gone |
"""

from enum import IntEnum


class TaskState(IntEnum):
    NEW = 0
    PENDING = 64
    ASSIGNED = 192
    ACCEPTED = 256
    PREPARING = 320
    READY = 384
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576
    SHUTDOWN = 640
    FAILED = 704
    REJECTED = 768
    REMOVE = 800
    """Only ever desired: the task is to be forgotten once it has stopped."""
    ORPHANED = 832

    @property
    def docker_name(self) -> str:
        """As the Engine API spells it: lower case."""
        return self.name.lower()

    @property
    def is_terminal(self) -> bool:
        """The task has ended and will never run again."""
        return self > TaskState.RUNNING


DESIRED_STATES = frozenset(
    {TaskState.READY, TaskState.RUNNING, TaskState.COMPLETE, TaskState.SHUTDOWN, TaskState.REMOVE}
)

TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    state: frozenset(
        later
        for later in TaskState
        if later > state and later is not TaskState.REMOVE and not state.is_terminal
    )
    for state in TaskState
    if state is not TaskState.REMOVE
}
"""From each observed state, those a report may move it to: any later one, since reports may be
lost. An ended task moves no more, but that a lost node's becomes ORPHANED."""
for _ended in (TaskState.COMPLETE, TaskState.SHUTDOWN, TaskState.FAILED, TaskState.REJECTED):
    TRANSITIONS[_ended] = frozenset({TaskState.ORPHANED})


def may_move(observed: TaskState, reported: TaskState) -> bool:
    """Whether a report of `reported` says something new about a task last seen `observed`."""
    return reported in TRANSITIONS[observed]
