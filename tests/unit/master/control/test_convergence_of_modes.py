"""All modes together: whatever happens, and in whatever order, with agents that obey each service
ends as it was asked for, and on the way no promise is broken."""

from collections import Counter

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from essaim_shared.objects import CronStatus, Task, TaskStatus
from essaim_shared.spec import (
    GlobalJobMode,
    GlobalMode,
    ReplicatedJobMode,
    ReplicatedMode,
    RestartPolicy,
    Schedule,
    ServiceMode,
)
from essaim_shared.task_state import TaskState

NODES = ("n1", "n2", "n3", "n4")
TOTAL, CONCURRENT = 5, 2
ROUNDS_MAX = 60

REPLICATED_JOB = ServiceMode(
    replicated_job=ReplicatedJobMode(total_completions=TOTAL, max_concurrent=CONCURRENT)
)
MODES = {
    "replicated": ServiceMode(replicated=ReplicatedMode(replicas=3)),
    "global": ServiceMode(global_=GlobalMode()),
    "job": REPLICATED_JOB,
    "global-job": ServiceMode(global_job=GlobalJobMode()),
    "cron": REPLICATED_JOB,
}
CONSTRAINTS = ("node.labels.disk!=slow",)
POLICIES = (None, RestartPolicy(delay=0), RestartPolicy(delay=10**9))
"""That never give up, so that what must come of a service can be told."""

CREATIONS = st.lists(
    st.tuples(st.just("create"), st.sampled_from(sorted(MODES)), st.sampled_from(POLICIES)),
    min_size=1,
    max_size=5,
    unique_by=lambda event: event[1],
)

OUTER_EVENTS = st.one_of(
    st.tuples(st.just("create"), st.sampled_from(sorted(MODES)), st.sampled_from(POLICIES)),
    st.tuples(st.just("remove"), st.sampled_from(sorted(MODES))),
    st.tuples(st.just("update"), st.sampled_from(sorted(MODES))),
    st.tuples(
        st.just("availability"),
        st.sampled_from(NODES),
        st.sampled_from(("active", "pause", "drain")),
    ),
    st.tuples(
        st.just("state"), st.sampled_from(NODES), st.sampled_from(("ready", "down", "unknown"))
    ),
    st.tuples(st.just("label"), st.sampled_from(NODES), st.sampled_from(("slow", "fast"))),
    st.tuples(st.just("remove_node"), st.sampled_from(NODES)),
    st.tuples(st.just("add_node"), st.sampled_from(NODES)),
    st.tuples(st.just("settle")),
    st.tuples(st.just("agents")),
    st.tuples(st.just("advance"), st.integers(-90, 200)),
)

EVENTS = st.one_of(
    OUTER_EVENTS,
    st.tuples(
        st.just("end"),
        st.integers(0, 20),
        st.sampled_from((TaskState.FAILED, TaskState.COMPLETE, TaskState.REJECTED)),
    ),
    st.tuples(st.just("slice")),
    st.tuples(st.just("elect")),
)


class Witness:
    """Sees every transaction, and remembers what it may not contradict later."""

    def __init__(self, world):
        self.world = world
        self.times: dict[str, dict[int, int]] = {}
        world.state.subscribe(self.note)

    def note(self, applied):
        for change in applied.changes:
            before, after = change.before, change.after
            if isinstance(before, TaskStatus) and isinstance(after, TaskStatus):
                assert after.state >= before.state, "an observed state only grows"
            if isinstance(after, CronStatus):
                self.note_runs(change.id, after)
            if isinstance(before, CronStatus) and after is None:
                self.times.pop(change.id, None)

    def note_runs(self, service_id, status):
        times = self.times.setdefault(service_id, {})
        for run in status.runs:
            assert times.setdefault(run.number, run.scheduled_ns) == run.scheduled_ns
        assert len(set(times.values())) == len(times), "no time is run twice"

    def check(self):
        at_work: Counter[tuple[str, int]] = Counter()
        slots: set[tuple[str, object, object]] = set()
        for task in self.world.state.tasks.values():
            if not task.is_wanted or self.world.state.observed(task.id) is TaskState.COMPLETE:
                continue
            if task.iteration is None or task.target_node is not None:
                continue
            key = (task.service_id, task.slot_key, task.iteration)
            if key not in slots:
                slots.add(key)
                at_work[task.service_id, task.iteration] += 1
        assert all(count <= CONCURRENT for count in at_work.values()), "too many are at work"


def happen(world, event):
    """Apply one event; those that make no sense at the moment do nothing."""
    kind, *rest = event
    services = {service.spec.name: service for service in world.state.services.values()}
    match kind:
        case "create" if rest[0] not in services:
            name, policy = rest
            schedule = Schedule(expression="* * * * *", concurrency="forbid", history=2)
            more = {"schedule": schedule} if name == "cron" else {}
            world.create(name, mode=MODES[name], restart=policy, constraints=CONSTRAINTS, **more)
        case "remove" if rest[0] in services:
            world.remove(services[rest[0]].id)
        case "update" if rest[0] in services:
            world.update(services[rest[0]].id)
        case "availability" if rest[0] in world.state.nodes:
            world.set_node(rest[0], availability=rest[1])
        case "label" if rest[0] in world.state.nodes:
            world.set_node(rest[0], labels={"disk": rest[1]})
        case "state" if rest[0] in world.state.nodes:
            world.set_node_state(*rest)
        case "remove_node" if rest[0] in world.state.nodes:
            world.remove_node(rest[0])
        case "add_node" if rest[0] not in world.state.nodes:
            world.add_node(rest[0])
        case "end":
            alive = [
                task
                for task in world.state.tasks.values()
                if task.node_id and not world.state.observed(task.id).is_terminal
            ]
            if alive:
                world.report(alive[rest[0] % len(alive)].id, rest[1])
        case "slice":
            world.slice()
        case "settle":
            world.settle()
        case "agents":
            world.agents_obey()
        case "advance":
            world.advance(rest[0])
        case "elect":
            world.elect()


def finish_jobs(world):
    """Let the tasks of jobs complete until there are none at work."""
    for _ in range(ROUNDS_MAX):
        world.converge()
        at_work = [
            task
            for task in world.state.tasks.values()
            if task.iteration is not None
            and task.is_wanted
            and world.state.observed(task.id) is TaskState.RUNNING
            and world.state.node_status[task.node_id].state != "down"
        ]
        if not at_work:
            return
        for task in at_work:
            world.report(task.id, TaskState.COMPLETE)
    raise AssertionError("the jobs do not end")


def eligible(world):
    return {
        node.id
        for node in world.state.nodes.values()
        if node.spec.availability == "active"
        and node.spec.labels.get("disk") != "slow"
        and world.state.node_status[node.id].state == "ready"
    }


def check_outcome(world, service):
    complete = world.tasks(service.id, TaskState.COMPLETE)
    match service.spec.name:
        case "replicated":
            assert len(world.running(service.id)) == 3
        case "global":
            open_nodes = {t.target_node for t in world.running(service.id)} & eligible(world)
            assert open_nodes == eligible(world)
        case "job":
            done = [t.slot for t in complete if t.iteration == service.job_iteration]
            assert set(done) == set(range(TOTAL))
        case "global-job":
            done_on = {t.target_node for t in complete if t.iteration == service.job_iteration}
            assert eligible(world) <= done_on
        case "cron":
            runs = world.state.cron_status[service.id].runs
            assert {run.outcome for run in runs} <= {"complete", "skipped"}
            for run in runs:
                done = [t.slot for t in complete if t.iteration == run.number]
                assert set(done) == (set(range(TOTAL)) if run.outcome == "complete" else set())
    live: Counter[object] = Counter()
    for task in world.tasks(service.id):
        if task.is_wanted and not world.state.observed(task.id).is_terminal:
            live[task.slot_key, task.iteration] += 1
            assert fits(world, task), "it runs where it must not"
    assert not live or max(live.values()) == 1, "a slot with two live tasks"


def fits(world, task: Task) -> bool:
    if task.node_id is None:
        return True
    node = world.state.nodes[task.node_id]
    if world.state.node_status[task.node_id].state == "down":
        # What is bound to this one node waits for it; everything else goes elsewhere.
        return task.target_node is not None
    return (
        node.spec.availability != "drain"
        # What a paused node has is left alone.
        and (node.spec.labels.get("disk") != "slow" or node.spec.availability == "pause")
    )


@given(CREATIONS, st.lists(EVENTS, min_size=10, max_size=60), st.integers(2, 60))
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_history_of_all_modes_ends_in_order(make_world, creations, events, limit):
    world = make_world(seed=len(events), limit=limit)
    note(f"seed {world.seed}")
    for name in NODES:
        world.add_node(name)
    witness = Witness(world)
    for event in (*creations, *events):
        happen(world, event)
        witness.check()
    happen(world, ("add_node", "n1"))
    world.set_node_state("n1", "ready")
    world.set_node("n1", availability="active", labels={})
    finish_jobs(world)
    witness.check()
    for service in world.state.services.values():
        check_outcome(world, service)
    assert world.full_pass() == 0, "a second pass over an ordered state writes nothing"
    before = dict(world.state.tasks)
    world.elect()
    assert world.settle() == 0, "nor does a new leader's first"
    assert dict(world.state.tasks) == before


def normal_form(world):
    """What stands in each slot, whatever the ids and times are."""
    return sorted(
        (
            task.service_id,
            str(task.slot_key),
            -1 if task.iteration is None else task.iteration,
            task.spec_version,
            world.state.observed(task.id).name,
        )
        for task in world.state.tasks.values()
        if task.is_wanted
    )


@given(CREATIONS, st.lists(OUTER_EVENTS, min_size=5, max_size=30), st.integers(2, 60))
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_new_leader_at_every_moment_changes_nothing_in_the_result(
    make_world, creations, events, limit
):
    results = []
    for elects in (False, True):
        world = make_world(seed=len(events), limit=limit)
        note(f"seed {world.seed}")
        for name in NODES:
            world.add_node(name)
        for event in (*creations, *events):
            happen(world, event)
            if elects:
                world.elect()
        happen(world, ("add_node", "n1"))
        world.set_node_state("n1", "ready")
        world.set_node("n1", availability="active", labels={})
        if elects:
            world.elect()
        for service in list(world.state.services.values()):
            if service.spec.name == "cron":  # its runs depend on when a leader looks
                world.remove(service.id)
        finish_jobs(world)
        results.append(normal_form(world))
    assert results[0] == results[1]
