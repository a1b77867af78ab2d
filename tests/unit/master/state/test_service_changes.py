"""What changes make of a service: its versions, its history, and what is written."""

import random

import pytest

from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.service_changes import (
    changed_service,
    history_of,
    promoted_service,
    rolled_back_service,
    service_at_revision,
    service_writes,
    swapped_service,
)
from essaim_master.state.writes import TRANSACTION_PAYLOAD_BYTES_MAX
from essaim_shared.clock import ManualClock
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.errors import InvalidRequest
from essaim_shared.limits import REVISIONS_KEPT, SPEC_BYTES_MAX
from essaim_shared.objects import Service
from essaim_shared.spec import (
    EndpointSpec,
    GlobalJobMode,
    PortConfig,
    ReplicatedJobMode,
    ReplicatedMode,
    Schedule,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)

NOW_NS = 1_700_000_000_000_000_000
SEED = 20261121

JOB = ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=1, total_completions=3))


def spec_of(image="app:1", replicas=3, labels=None, ports=(), mode=None, schedule=None):
    return ServiceSpec(
        name="web",
        labels=labels or {},
        task=TaskSpec(container=ContainerSpec(image=image)),
        mode=mode or ServiceMode(replicated=ReplicatedMode(replicas=replicas)),
        endpoint=EndpointSpec(ports=ports) if ports else None,
        **({"schedule": schedule} if schedule else {}),
    )


def service_of(**fields):
    return Service(id="s", spec=spec_of(**fields), created_ns=NOW_NS, updated_ns=NOW_NS)


def host_port(published):
    return PortConfig(target_port=80, published_port=published, publish_mode="host")


def counts(service):
    return service.generation, service.spec_version, service.revision


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, (2, 1, 1)),
        ({"replicas": 9}, (2, 1, 1)),
        ({"labels": {"a": "b"}}, (2, 1, 2)),
        ({"image": "app:2"}, (2, 2, 2)),
        ({"image": "app:2", "replicas": 9}, (2, 2, 2)),
        ({"ports": (host_port(8080),)}, (2, 2, 2)),
    ],
)
def test_each_change_counts_as_what_it_is(change, expected) -> None:
    """Generation, spec version, revision: always; with the tasks; with all but the scale."""
    before = service_of()
    after = changed_service(before, spec_of(**change), NOW_NS + 1)
    assert counts(after) == expected
    assert after.previous_spec == before.spec


def test_a_new_template_forgets_the_promotions_and_a_scaling_keeps_them() -> None:
    promoted = promoted_service(promoted_service(service_of(), NOW_NS), NOW_NS)
    assert promoted.promotions == 2
    assert counts(promoted) == counts(service_of())
    assert changed_service(promoted, spec_of(replicas=5), NOW_NS).promotions == 2
    assert changed_service(promoted, spec_of(image="app:2"), NOW_NS).promotions == 0


@pytest.mark.parametrize("mode", [JOB, ServiceMode(global_job=GlobalJobMode())])
def test_every_update_runs_a_job_anew(mode) -> None:
    before = service_of(mode=mode)
    after = changed_service(before, before.spec, NOW_NS + 7)
    assert (after.job_iteration, after.executed_ns) == (1, NOW_NS + 7)
    assert counts(after) == (2, 2, 1)


def test_an_update_of_a_job_with_a_schedule_runs_nothing() -> None:
    schedule = Schedule(expression="@hourly")
    before = service_of(mode=JOB, schedule=schedule)
    after = changed_service(before, before.spec, NOW_NS + 7)
    assert (after.job_iteration, after.executed_ns, after.spec_version) == (0, 0, 1)


def test_a_users_second_rollback_undoes_the_first() -> None:
    first, second = spec_of(image="app:1"), spec_of(image="app:2")
    changed = changed_service(service_of(), second, NOW_NS)
    back = swapped_service(changed, NOW_NS)
    assert (back.spec, back.previous_spec, back.is_rollback) == (first, second, True)
    again = swapped_service(back, NOW_NS)
    assert (again.spec, again.previous_spec) == (second, first)
    assert counts(again) == (4, 4, 4)


def test_the_updaters_rollback_is_the_last_word() -> None:
    changed = changed_service(service_of(), spec_of(image="app:2"), NOW_NS)
    back = rolled_back_service(changed, NOW_NS)
    assert (back.spec.task.container.image, back.is_rollback) == ("app:1", True)
    for roll_back in (rolled_back_service, swapped_service):
        with pytest.raises(InvalidRequest, match="does not have a previous spec"):
            roll_back(back, NOW_NS)


def test_an_update_ends_a_rollback() -> None:
    changed = changed_service(service_of(), spec_of(image="app:2"), NOW_NS)
    back = swapped_service(changed, NOW_NS)
    assert not changed_service(back, spec_of(image="app:3"), NOW_NS).is_rollback


def test_a_clock_that_was_set_back_dates_no_change_before_the_last() -> None:
    changed = changed_service(service_of(), spec_of(image="app:2"), NOW_NS + 50)
    assert changed_service(changed, spec_of(), NOW_NS).updated_ns == NOW_NS + 50


class History:
    """One service in a state, changed through the writes alone."""

    def __init__(self):
        member = Member("m1", "127.0.0.1:1", "127.0.0.1:2")
        self.cluster = LocalCluster(ManualClock(), member)
        self.state = self.cluster.state

    @property
    def service(self):
        return self.state.services["s"]

    @property
    def revisions(self):
        return history_of(self.service, self.kept)

    @property
    def kept(self):
        return self.state.revisions_of("s")

    async def put(self, before, after):
        writes = service_writes(self.kept, before, after)
        (transaction,) = writes.transactions()
        assert (await self.cluster.commit(transaction, 1.0)).succeeded

    async def change(self, **fields):
        before = self.service
        await self.put(before, changed_service(before, spec_of(**fields), NOW_NS))

    async def roll_back_to(self, number):
        before = self.service
        await self.put(before, service_at_revision(before, self.kept, number, NOW_NS))


@pytest.fixture
async def history():
    made = History()
    await made.put(None, service_of())
    return made


async def test_the_history_begins_with_the_service(history) -> None:
    assert [(one.number, one.spec) for one in history.revisions.values()] == [(1, spec_of())]


async def test_the_first_spec_is_written_to_the_history_with_the_first_change(history) -> None:
    assert not history.kept
    await history.roll_back_to(1)
    assert not history.kept, "to what it has: nothing has changed"
    await history.change(image="app:2")
    assert [(one.number, one.created_ns) for one in history.kept.values()] == [
        (1, service_of().created_ns),
        (2, NOW_NS),
    ]


async def test_a_scaling_leaves_the_history_alone(history) -> None:
    await history.change(replicas=40)
    assert list(history.revisions) == [1]


async def test_the_oldest_revisions_make_room(history) -> None:
    for number in range(2, REVISIONS_KEPT + 5):
        await history.change(image=f"app:{number}")
    assert list(history.revisions) == list(range(5, REVISIONS_KEPT + 5))
    assert all(one.spec.task.container.image == f"app:{n}" for n, one in history.revisions.items())


async def test_a_rollback_to_a_revision_keeps_the_scale_and_makes_a_new_one(history) -> None:
    await history.change(image="app:2")
    await history.change(image="app:3")
    await history.change(image="app:3", replicas=40)
    await history.roll_back_to(1)
    service = history.service
    assert (service.spec.task.container.image, service.spec.replicas) == ("app:1", 40)
    assert service.previous_spec.task.container.image == "app:3"
    assert (service.revision, service.is_rollback) == (4, True)
    assert list(history.revisions) == [1, 2, 3, 4]


async def test_a_revision_that_is_not_kept_is_refused_with_those_that_are(history) -> None:
    await history.change(image="app:2")
    with pytest.raises(InvalidRequest, match="no revision 7: these are kept: 1, 2"):
        await history.roll_back_to(7)


async def test_a_service_from_before_there_was_a_history_keeps_what_it_had() -> None:
    old = History()
    before = service_of()
    after = changed_service(before, spec_of(image="app:2"), NOW_NS)
    await old.put(before, after)
    images = [one.spec.task.container.image for one in old.revisions.values()]
    assert images == ["app:1", "app:2"]


def test_the_largest_spec_fits_one_transaction() -> None:
    """A change that were cut in two could not be guarded by the version of the service."""
    largest = {"x": "y" * (SPEC_BYTES_MAX - 200)}
    before = service_of(labels=largest)
    after = changed_service(before, spec_of(labels={**largest, "z": ""}), NOW_NS)
    writes = service_writes({}, before, after)
    assert len(writes.transactions()) == 1
    assert 4 * SPEC_BYTES_MAX < TRANSACTION_PAYLOAD_BYTES_MAX


async def test_whatever_is_done_the_history_ends_with_the_present_spec(history) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    for _ in range(300):
        before = history.service
        action = rng.randrange(4)
        if action == 0:
            await history.change(image=f"app:{rng.randrange(5)}", replicas=before.spec.replicas)
        elif action == 1:
            await history.change(image=before.spec.task.container.image, replicas=rng.randrange(9))
        elif action == 2:
            await history.roll_back_to(rng.choice(list(history.revisions)))
        elif before.previous_spec is not None:
            await history.put(before, swapped_service(before, NOW_NS))
        after = history.service
        assert after.generation >= before.generation
        assert after.spec_version >= before.spec_version
        assert len(history.revisions) <= REVISIONS_KEPT
        newest = list(history.revisions.values())[-1]
        assert newest.number == after.revision
        assert newest.spec.task == after.spec.task
