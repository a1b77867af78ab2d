"""Services that follow a secret: all are brought to the newest data, whoever leads meanwhile."""

import msgspec
import pytest
from support.control_stage import Stage

from essaim_master.control.followers import CHANGES_PER_SLICE_MAX, Followers
from essaim_master.state.payload_data import creation_of, new_data_of
from essaim_master.state.payload_references import followed_after, newest_seen, uses_of
from essaim_master.state.payload_uses import mark_payloads, needed_numbers
from essaim_master.state.service_changes import changed_service, service_writes
from essaim_master.state.writes import Writes
from essaim_shared.container_spec import ContainerSpec, ReferencedFile, SecretReference
from essaim_shared.ids import PayloadId, ServiceId
from essaim_shared.objects import Service
from essaim_shared.payload_objects import Secret, SecretData
from essaim_shared.spec import ReplicatedJobMode, Schedule, ServiceMode, ServiceSpec, TaskSpec

SECRET = PayloadId("s" * 25)
SERVICES = 3 * CHANGES_PER_SLICE_MAX + 1


def spec(name, number=1, pinned=False, **fields):
    reference = SecretReference(
        file=ReferencedFile(name="pass"),
        secret_id=SECRET,
        secret_name="pass",
        data_version=number,
        is_pinned=True if pinned else msgspec.UNSET,
    )
    container = ContainerSpec(image="good", secrets=(reference,))
    return ServiceSpec(name=name, task=TaskSpec(container=container), **fields)


def add_service(stage, name, *args, **fields):
    service = Service(
        id=ServiceId(name), spec=spec(name, *args, **fields), created_ns=1, updated_ns=1
    )
    writes = service_writes({}, None, service)
    mark_payloads(writes, stage.state, None, service)
    assert stage.commit(writes)
    return service


def add_data(stage):
    secret = stage.state.payloads("secret")[SECRET]
    data = SecretData(
        secret_id=SECRET, number=secret.latest + 1, sealed=b"x", created_ns=stage.now_ns
    )
    writes = new_data_of(stage.state, secret, data, lambda: needed_numbers(stage.state, secret))
    assert stage.commit(writes)


def numbers(stage):
    return {
        service.id: [number for _, _, number in uses_of(service.spec.task)]
        for service in stage.state.services.values()
    }


@pytest.fixture
def stage():
    stage = Stage()
    secret = Secret(id=SECRET, name="pass", created_ns=1, updated_ns=1)
    data = SecretData(secret_id=SECRET, number=1, sealed=b"x", created_ns=1)
    assert stage.commit(creation_of(secret, data))
    return stage


def test_many_are_changed_a_few_in_each_slice(stage) -> None:
    for number in range(SERVICES):
        add_service(stage, f"s{number}")
    followers = Followers(stage.state)
    add_data(stage)
    followers.note_payload(SECRET)
    counts = []
    while followers:
        changes = {}
        followers.work_off(changes, stage.now_ns)
        counts.append(len(changes))
        for writes in changes.values():
            assert len(writes.transactions()) == 1
            assert stage.commit(writes)
    assert counts == [CHANGES_PER_SLICE_MAX] * 3 + [1]
    assert set(map(tuple, numbers(stage).values())) == {(2,)}


def test_a_leader_that_dies_in_the_middle_leaves_none_behind(stage) -> None:
    for number in range(SERVICES):
        add_service(stage, f"s{number}")
    stage.settle()
    add_data(stage)
    stage.lead_once()
    behind = [name for name, found in numbers(stage).items() if found == [1]]
    assert 0 < len(behind) < SERVICES
    stage.elect()
    stage.settle()
    assert set(map(tuple, numbers(stage).values())) == {(2,)}
    assert stage.full_pass() == 0


def test_a_user_who_changes_the_service_at_the_same_moment(stage) -> None:
    """His change was made before he could see the new data; the leader's fails, and comes again."""
    service = add_service(stage, "web")
    add_data(stage)
    followers = Followers(stage.state)
    followers.add_everything()
    changes = {}
    followers.work_off(changes, stage.now_ns)
    theirs = changed_service(
        service, msgspec.structs.replace(service.spec, labels={"a": "b"}), stage.now_ns
    )
    stage.put(theirs)
    assert not stage.commit(changes[service.id])
    stage.settle()
    web = stage.state.services[service.id]
    assert numbers(stage) == {"web": [2]}
    assert web.spec.labels == {"a": "b"}


def test_what_is_being_rolled_back_is_not_changed_in_the_same_slice(stage) -> None:
    service = add_service(stage, "web")
    add_data(stage)
    followers = Followers(stage.state)
    followers.add_everything()
    rollback = Writes()
    changes = {service.id: rollback}
    followers.work_off(changes, stage.now_ns)
    assert changes == {service.id: rollback}


def test_jobs_and_pins_stay_and_cron_jobs_follow(stage) -> None:
    job = ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=1, total_completions=1))
    add_service(stage, "pinned", 1, True)
    add_service(stage, "job", mode=job)
    add_service(stage, "cron", mode=job, schedule=Schedule(expression="0 0 1 1 *"))
    add_data(stage)
    stage.settle()
    assert numbers(stage) == {"pinned": [1], "job": [1], "cron": [2]}
    assert stage.state.services[ServiceId("cron")].job_iteration == 0


def test_the_newest_data_that_a_service_has_seen() -> None:
    service = Service(id=ServiceId("x"), spec=spec("x", 4), created_ns=1, updated_ns=1)
    assert newest_seen(service, SECRET) == 4
    assert newest_seen(service, PayloadId("other")) == 0
    back = followed_after(service, spec("x", 2))
    assert back == {SECRET: 4}
    there = msgspec.structs.replace(service, spec=spec("x", 2), followed=back)
    assert newest_seen(there, SECRET) == 4
    assert followed_after(there, spec("x", 2)) == back
    assert followed_after(there, spec("x", 5)) == {}
    assert followed_after(there, spec("x", 2, True)) == {}
    pinned = msgspec.structs.replace(service, spec=spec("x", 2, True))
    assert newest_seen(pinned, SECRET) == 0
