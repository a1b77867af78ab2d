"""A cluster on a stage: the real state and the real decisions of a leader, and agents that play.

What a container does is written in its image, so that a script needs no explanation:

    good            starts at once and runs
    bad             exits with 1 as soon as it is started
    missing         cannot be prepared: no such image
    stuck           is prepared for ever
    slow-20s        takes 20 s from its start to running (as under a health check)
    crash-3s        runs for 3 s, then exits with 1
    job-5s          runs for 5 s, then exits with 0
    unready-4s      runs, and is ready after 4 s
    fussy           exits with 1 if it is given the second data of a secret or config

A tag behind it (`good:2`) makes another image of the same behaviour. Time is manual: nothing
happens but at `advance`, which stops at every moment at which an agent or the leader has
something to do.
"""

import heapq
import random
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import msgspec

from essaim_master.control.allocator import Cursors
from essaim_master.control.planner import plan_slice
from essaim_master.control.worklist import Worklist
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.cluster_state import AppliedChanges, Change
from essaim_master.state.payload_references import uses_of
from essaim_master.state.writes import Writes
from essaim_shared.clock import ManualClock
from essaim_shared.ids import MemberId, NetworkId, NodeId, TaskId
from essaim_shared.objects import (
    Network,
    NodeDescription,
    NodeObject,
    NodeStatus,
    Task,
    TaskStatus,
    UpdateStatus,
)
from essaim_shared.spec import NodeSpec
from essaim_shared.task_state import TaskState

T = TypeVar("T")

TURNS_MAX = 20_000
"""Of leader and agents within one command; more means that they never come to rest."""
SECOND_NS = 1_000_000_000
EPOCH_NS = 1_700_000_000 * SECOND_NS
GIB = 1024**3

_BEHAVIOUR = re.compile(r"(?P<name>[a-z]+)(?:-(?P<seconds>[0-9.]+)s)?(?::.*)?")


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, as those of LocalCluster."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    raise AssertionError("the coroutine waits for something")


class Stage:
    def __init__(self, seed: int = 1, slice_limit: int = 250) -> None:
        self.rng = random.Random(seed)
        self.slice_limit = slice_limit
        self.now_ns = EPOCH_NS
        self.cluster = LocalCluster(ManualClock(), Member(MemberId("m1"), "", ""))
        self.state = self.cluster.state
        self.log: list[str] = []
        """What happened since the last command."""
        self.checks: list[Callable[[Stage], None]] = []
        """Called after every transaction."""
        self.broken: list[BaseException] = []
        """Invariants that the API found broken."""
        self.elects_always = False
        self.agents_lag_ns = 0
        """How far the clocks of the nodes are behind the masters'."""
        self.before_rollbacks: Callable[[], None] = lambda: None
        """Called before the leader rolls a service back: what may come in between."""
        self._worklist = Worklist(self.state)
        self._cursors = Cursors()
        self._attempts: dict[TaskId, int] = {}
        """How many tasks of its slot came before."""
        self._names: dict[TaskId, str] = {}
        self._made: Counter[tuple[str, object, object]] = Counter()
        self._acts: list[tuple[int, int, TaskId, str]] = []
        """(when, order, task, what its container does then), a heap."""
        self._acts_made = 0
        self.state.subscribe(self._note)
        self.put(
            Network(
                id=NetworkId("net"),
                name="default",
                vni=7,
                subnet="10.1.0.0/16",
                vip_subnet="10.160.0.0/20",
                mtu=1450,
                created_ns=1,
            )
        )

    # The state.

    def commit(self, writes: Writes) -> bool:
        """Apply writes; False when a compare failed, in which case nothing was."""
        for transaction in writes.transactions():
            if not run_now(self.cluster.commit(transaction, 1.0)).succeeded:
                return False
            for check in self.checks:
                check(self)
        return True

    def put(self, stored: Any) -> None:
        writes = Writes()
        writes.put(stored)
        assert self.commit(writes)

    def elect(self) -> None:
        """A new leader: everything in memory is built anew from the state."""
        self._worklist = Worklist(self.state)
        self._cursors = Cursors()

    # Nodes.

    def add_node(
        self, name: str, labels: dict[str, str], cpus: float = 4, **description: Any
    ) -> None:
        node_id = NodeId(name)
        writes = Writes()
        spec = NodeSpec(name=name, labels=labels)
        writes.put(NodeObject(id=node_id, spec=spec, created_ns=1, updated_ns=1))
        facts = NodeDescription(
            hostname=name,
            address=f"192.168.0.{len(self.state.nodes) + 1}",
            architecture="x86_64",
            nano_cpus=int(cpus * 1e9),
            memory_bytes=8 * GIB,
            engine_version="28.2",
            **description,
        )
        status = NodeStatus(state="ready", description=facts, changed_ns=self.now_ns)
        writes.put_node_status(node_id, status)
        self.commit(writes)

    def change_node(self, name: str, **changes: Any) -> None:
        node = self.state.nodes[NodeId(name)]
        spec = msgspec.structs.replace(node.spec, **changes)
        self.put(msgspec.structs.replace(node, spec=spec, updated_ns=self.now_ns))

    def set_node_state(self, name: str, state: str) -> None:
        """`down`: it is cut off, and its containers go on; `ready`: its agent reports again."""
        node_id = NodeId(name)
        status = self.state.node_status[node_id]
        writes = Writes()
        changed = msgspec.structs.replace(status, state=state, changed_ns=self.now_ns)
        writes.put_node_status(node_id, changed)
        self.commit(writes)

    def remove_node(self, name: str) -> None:
        writes = Writes()
        writes.delete_node(NodeId(name))
        self.commit(writes)

    # Time.

    def settle(self) -> None:
        """Leader and agents in turns until nobody has anything to do at this moment."""
        for _ in range(TURNS_MAX):
            if not (self._lead() or self._obey() or self._act_due()):
                return
        raise AssertionError(f"no rest after {TURNS_MAX} turns at {self.time}: {self.log[-6:]}")

    def advance(self, seconds: float) -> None:
        until_ns = self.now_ns + int(seconds * SECOND_NS)
        for _ in range(TURNS_MAX):
            self.settle()
            next_ns = min(self._due_times(), default=until_ns)
            if next_ns >= until_ns:
                break
            self.now_ns = max(next_ns, self.now_ns + 1)
        else:
            raise AssertionError(f"no end after {TURNS_MAX} moments: {self.log[-6:]}")
        self.now_ns = until_ns
        self.settle()

    @property
    def time(self) -> str:
        return f"{(self.now_ns - EPOCH_NS) / SECOND_NS:g}s"

    def _due_times(self) -> Iterator[int]:
        if self._acts:
            yield self._acts[0][0]
        due_ns = self._worklist.next_due_ns()
        if due_ns is not None:
            yield due_ns

    # The leader.

    def lead_once(self) -> int:
        """One slice of work; how many keys it wrote."""
        if self.elects_always:
            self.elect()
        writes = plan_slice(
            self.state, self._worklist, self._cursors, self.rng, self.now_ns, self.slice_limit
        )
        if not self.commit(writes):
            self._worklist.add_everything()
        for service_id, rollback in self._worklist.take_rollbacks().items():
            self.before_rollbacks()
            if not self.commit(rollback):
                self._worklist.rollback_failed(service_id)
        return len(writes)

    def full_pass(self) -> int:
        """Look at everything again; how many keys that writes."""
        self._worklist.add_everything()
        return self.lead_once()

    def _lead(self) -> bool:
        written = self.lead_once()
        return bool(written or self._worklist)

    # The agents.

    def end(self, task: Task, exit_code: int) -> None:
        """A container ends by itself."""
        state = TaskState.COMPLETE if exit_code == 0 else TaskState.FAILED
        err = "" if exit_code == 0 else f"task: non-zero exit ({exit_code})"
        self._report(task, state, err)

    def _obey(self) -> bool:
        """Each agent takes one step for each of its tasks."""
        return sum(self._step(task) for task in list(self.state.tasks.values())) > 0

    def _step(self, task: Task) -> bool:
        observed = self.state.observed(task.id)
        if observed.is_terminal or not self._is_heard(task):
            return False
        if task.desired_state > TaskState.COMPLETE:
            self._report(task, TaskState.SHUTDOWN)
            return True
        if observed < TaskState.PREPARING:
            return self._prepare(task)
        if observed is TaskState.READY and task.desired_state > TaskState.READY:
            self._start(task)
            return True
        return False

    def _prepare(self, task: Task) -> bool:
        name, _ = _behaviour(task)
        if name == "missing":
            self._report(task, TaskState.REJECTED, f"No such image: {task.spec.container.image}")
        elif name == "stuck":
            self._report(task, TaskState.PREPARING)
        else:
            self._report(task, TaskState.READY)
        return True

    def _start(self, task: Task) -> None:
        name, seconds = _behaviour(task)
        match name:
            case "bad":
                self.end(task, 1)
            case "fussy" if any(number == 2 for _, _, number in uses_of(task.spec)):
                self.end(task, 1)
            case "slow":
                self._report(task, TaskState.STARTING)
                self._plan_act(task, seconds, "run")
            case "unready":
                self._report(task, TaskState.RUNNING, is_ready=False)
                self._plan_act(task, seconds, "ready")
            case "crash" | "job":
                self._report(task, TaskState.RUNNING)
                self._plan_act(task, seconds, "crash" if name == "crash" else "finish")
            case _:
                self._report(task, TaskState.RUNNING)

    def _plan_act(self, task: Task, seconds: float, act: str) -> None:
        self._acts_made += 1
        at_ns = self.now_ns + int(seconds * SECOND_NS)
        heapq.heappush(self._acts, (at_ns, self._acts_made, task.id, act))

    def _act_due(self) -> bool:
        """One thing that a container does by itself, if it is time."""
        if not self._acts or self._acts[0][0] > self.now_ns:
            return False
        _, _, task_id, act = heapq.heappop(self._acts)
        task = self.state.tasks.get(task_id)
        if task is None or self.state.observed(task_id).is_terminal:
            return True
        if not self._is_heard(task):
            self._plan_act(task, 1, act)  # told once the node is heard again
        elif act == "run":
            self._report(task, TaskState.RUNNING)
        elif act == "ready":
            self._report(task, TaskState.RUNNING, is_ready=True)
        else:
            self.end(task, 1 if act == "crash" else 0)
        return True

    def _is_heard(self, task: Task) -> bool:
        status = None if task.node_id is None else self.state.node_status.get(task.node_id)
        return status is not None and status.state == "ready"

    def _report(self, task: Task, state: TaskState, err: str = "", is_ready: bool = True) -> None:
        known = self.state.task_status.get(task.id)
        started_ns = 0 if known is None else known.started_ns
        changes = 0 if known is None else known.readiness_changes
        seen_ns = self.now_ns - self.agents_lag_ns
        status = TaskStatus(
            state=state,
            timestamp_ns=seen_ns,
            err=err,
            started_ns=started_ns or (seen_ns if state is TaskState.RUNNING else 0),
            is_ready=is_ready,
            readiness_changes=changes + (known is not None and known.is_ready is not is_ready),
        )
        writes = Writes()
        writes.put_task_status(task.id, status)
        assert self.commit(writes)

    # What is told.

    def name_of(self, task: Task) -> str:
        """`web.2` for the first task of a slot, `web.2'` for the second, `web.2'3` the fourth."""
        attempt = self._attempts[task.id]
        mark = "" if attempt == 0 else "'" if attempt == 1 else f"'{attempt}"
        iteration = "" if task.iteration is None else f"@{task.iteration}"
        return f"{task.name}{iteration}{mark}"

    def _note(self, applied: AppliedChanges) -> None:
        self._worklist.note(applied)
        for change in applied.changes:
            line = self._line_of(change)
            if line:
                self.log.append(f"{self.time:>6}  {line}")

    def _line_of(self, change: Change) -> str:
        match change.before, change.after:
            case None, Task() as task:
                return self._line_of_new(task)
            case Task() as before, Task() as task:
                return self._line_of_changed(before, task)
            case Task() as before, None:
                return f"{self.name_of(before)} forgotten"
            case _, TaskStatus() as status:
                return self._line_of_status(change.id, change.before, status)
            case _, UpdateStatus() as status:
                before = change.before
                if isinstance(before, UpdateStatus) and before.state == status.state:
                    return ""
                name = self.state.services[status.service_id].spec.name
                said = f": {self.plain(status.message)}" if status.message else ""
                return f"update of {name} {status.state}{said}"
            case _:
                return ""

    def plain(self, text: str) -> str:
        """Ids are drawn at random: names stand for them."""
        for task_id, name in self._names.items():
            text = text.replace(task_id, name)
        for service in self.state.services.values():
            text = text.replace(service.id, f"id of {service.spec.name}")
        return text

    def _line_of_new(self, task: Task) -> str:
        slot = (task.service_id, task.slot_key, task.iteration)
        self._attempts[task.id] = self._made[slot]
        self._made[slot] += 1
        self._names[task.id] = self.name_of(task)
        waits = " (waits for its time)" if task.desired_state is TaskState.READY else ""
        at = f" on {task.node_id}" if task.node_id is not None else ""
        return f"{self.name_of(task)} made{at}{waits}"

    def _line_of_changed(self, before: Task, task: Task) -> str:
        name = self.name_of(task)
        if before.node_id != task.node_id:
            return f"{name} placed on {task.node_id}"
        if before.desired_state != task.desired_state:
            verb = {
                TaskState.RUNNING: "may run",
                TaskState.COMPLETE: "may run",
                TaskState.SHUTDOWN: "to stop",
                TaskState.REMOVE: "to be removed",
            }[task.desired_state]
            return f"{name} {verb}"
        if before.spec_version != task.spec_version:
            return f"{name} adopts version {task.spec_version}"
        return ""

    def _line_of_status(self, task_id: str, before: Any, status: TaskStatus) -> str:
        task = self.state.tasks.get(TaskId(task_id))
        is_news = not isinstance(before, TaskStatus) or (
            before.state != status.state
            or before.is_ready is not status.is_ready
            or before.err != status.err
        )
        quiet = (TaskState.ASSIGNED, TaskState.PREPARING, TaskState.READY, TaskState.STARTING)
        if task is None or not is_news or status.state in quiet:
            return ""
        word = status.state.docker_name
        if status.state is TaskState.RUNNING and not status.is_ready:
            word = "running, not ready"
        elif isinstance(before, TaskStatus) and before.state is TaskState.RUNNING is status.state:
            word = "ready"
        return f"{self.name_of(task)} {word}" + (f": {status.err}" if status.err else "")


def _behaviour(task: Task) -> tuple[str, float]:
    found = _BEHAVIOUR.fullmatch(task.spec.container.image)
    assert found is not None, f"no behaviour is called {task.spec.container.image!r}"
    return found["name"], float(found["seconds"] or 0)
