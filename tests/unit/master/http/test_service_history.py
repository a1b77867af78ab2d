"""`/essaim/services/…`: history, rollback to any of it, promotion, runs of a schedule."""

import pytest

from essaim_master.state.service_changes import rolled_back_service
from essaim_shared.limits import REVISIONS_KEPT
from essaim_shared.objects import CronRun, CronStatus, UpdateStatus


def body_of(image="busybox:1", replicas=3, **rest):
    return {
        "Name": "web",
        "TaskTemplate": {"ContainerSpec": {"Image": image}},
        "Mode": {"Replicated": {"Replicas": replicas}},
        **rest,
    }


async def version(world):
    return (await world.get("/services/web")).json["Version"]["Index"]


async def create(world, **fields):
    answer = await world.post("/services/create", body_of(**fields))
    assert answer.status == 201, answer.message
    return answer.json["ID"]


async def update(world, **fields):
    url = f"/services/web/update?version={await version(world)}"
    answer = await world.post(url, body_of(**fields))
    assert answer.status == 200, answer.message


async def essaim(world, verb, at=None, **query):
    words = "".join(f"&{name}={value}" for name, value in query.items())
    at = await version(world) if at is None else at
    return await world.post(f"/essaim/services/web/{verb}?version={at}{words}")


async def revisions(world):
    answer = await world.get("/v1.47/essaim/services/web/history")
    assert answer.status == 200, answer.message
    return answer.json


async def test_the_history_tells_what_each_revision_was(world) -> None:
    await create(world)
    await update(world, image="busybox:2")
    await update(world, image="busybox:2", replicas=9)
    first, second = await revisions(world)
    assert (first["Revision"], first["Current"]) == (1, False)
    assert first["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "busybox:1"
    assert (second["Revision"], second["Current"]) == (2, True)
    assert second["CreatedAt"].endswith("Z")
    assert (await world.get("/services/web")).json["Revision"] == 2


async def test_a_rollback_to_a_revision_is_a_new_one_at_the_present_scale(world) -> None:
    service_id = await create(world)
    await update(world, image="busybox:2")
    await update(world, image="busybox:3", replicas=7)
    answer = await essaim(world, "rollback", to=1)
    assert (answer.status, answer.json) == (200, {"Warnings": None})
    service = world.state.services[service_id]
    assert service.spec.task.container.image == "busybox:1"
    assert (service.spec.replicas, service.revision, service.is_rollback) == (7, 4, True)
    assert [one["Revision"] for one in await revisions(world)] == [1, 2, 3, 4]


async def test_without_a_number_it_is_swarms_rollback(world) -> None:
    service_id = await create(world, replicas=3)
    await update(world, image="busybox:2", replicas=5)
    assert (await essaim(world, "rollback")).status == 200
    service = world.state.services[service_id]
    assert (service.spec.task.container.image, service.spec.replicas) == ("busybox:1", 3)


@pytest.mark.parametrize(
    ("query", "status", "sentence"),
    [
        ({"to": 9}, 400, "service web has no revision 9: these are kept: 1, 2"),
        ({"to": "two"}, 400, "invalid revision 'two'"),
        ({"to": "9" * 30}, 400, "invalid revision"),
        ({"to": ""}, 400, "invalid revision ''"),
        ({"to": 1, "at": 1}, 500, "update out of sequence"),
        ({"to": 1, "at": "x"}, 400, "invalid service version 'x'"),
    ],
)
async def test_a_rollback_that_cannot_be_changes_nothing(world, query, status, sentence) -> None:
    await create(world)
    await update(world, image="busybox:2")
    revision = world.state.revision
    answer = await essaim(world, "rollback", **query)
    assert answer.status == status
    assert sentence in answer.message
    assert world.state.revision == revision


async def test_of_a_rollback_and_an_update_at_once_one_wins_and_the_history_agrees(world) -> None:
    service_id = await create(world)
    await update(world, image="busybox:2")

    async def rival():
        await update(world, image="busybox:3")

    at = await version(world)
    world.cluster.before_commit.append(rival)
    assert (await essaim(world, "rollback", at=at, to=1)).status == 500
    assert world.state.services[service_id].revision == 3
    images = [
        one["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] for one in await revisions(world)
    ]
    assert images == ["busybox:1", "busybox:2", "busybox:3"]


async def test_the_history_goes_with_its_service(world) -> None:
    service_id = await create(world)
    for number in range(REVISIONS_KEPT + 3):
        await update(world, image=f"busybox:{number + 2}")
    assert len(await revisions(world)) == REVISIONS_KEPT
    assert (await world.call("DELETE", "/services/web")).status == 200
    assert not world.state.revisions_of(service_id)
    assert list(world.state.store.range(b"/service_revisions/")) == []
    assert (await world.get("/essaim/services/web/history")).status == 404


async def test_a_rollback_by_the_updater_stands_in_the_history_too(world) -> None:
    """What the leader writes goes through the same counting."""
    service_id = await create(world)
    await update(world, image="busybox:2")
    changed = rolled_back_service(world.state.services[service_id], world.clock.wall_ns())
    assert (changed.revision, changed.spec_version, changed.generation) == (3, 3, 3)


async def update_status(world, service_id, **fields):
    service = world.state.services[service_id]
    fields = {"state": "paused", "generation": service.generation, **fields}
    status = UpdateStatus(service_id=service_id, started_ns=world.clock.wall_ns(), **fields)
    await world.write(lambda writes: writes.put(status))


STEPS = {"UpdateConfig": {"Parallelism": 1, "Steps": [10, 50, 100]}}


async def test_a_promotion_is_counted_once(world) -> None:
    service_id = await create(world, **STEPS)
    await update(world, image="busybox:2", **STEPS)
    await update_status(world, service_id, is_waiting=True, step=1, message="waits")
    before = world.state.services[service_id]
    at = await version(world)
    assert (await essaim(world, "promote", at=at)).status == 200
    after = world.state.services[service_id]
    assert (after.promotions, after.generation, after.revision) == (1, before.generation, 2)
    # A client that repeats its request must not take two steps, nor one that reads in between.
    assert (await essaim(world, "promote", at=at)).status == 500
    answer = await essaim(world, "promote")
    assert (answer.status, world.state.services[service_id].promotions) == (400, 1)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (None, "service web has no update that waits to be promoted"),
        ({"generation": 1, "is_waiting": True, "step": 1}, "has no update that waits"),
        ({"state": "completed"}, "does not wait to be promoted, it is completed"),
        ({"state": "updating", "step": 1}, "does not wait to be promoted, it is updating"),
        ({"message": "task failed"}, "was paused by a failure, not by its steps: task failed"),
    ],
)
async def test_what_does_not_wait_is_not_promoted(world, status, sentence) -> None:
    service_id = await create(world, **STEPS)
    await update(world, image="busybox:2", **STEPS)
    if status is not None:
        await update_status(world, service_id, **status)
    answer = await essaim(world, "promote")
    assert answer.status == 400
    assert sentence in answer.message
    assert world.state.services[service_id].promotions == 0


async def test_an_update_status_is_shown_while_its_update_is_the_last(world) -> None:
    service_id = await create(world, **STEPS)
    await update(world, image="busybox:2", **STEPS)
    await update_status(world, service_id, is_waiting=True, step=1, message="waits", total=3)
    shown = (await world.get("/services/web")).json["UpdateStatus"]
    started = shown.pop("StartedAt")
    assert started.endswith("Z")
    assert shown == {
        "State": "paused",
        "Message": "waits",
        "TotalSlots": 3,
        "FailedSlots": 0,
        "StepsDone": 1,
        "WaitsForPromotion": True,
    }
    await update(world, image="busybox:3", **STEPS)
    assert "UpdateStatus" not in (await world.get("/services/web")).json


async def test_the_runs_of_a_schedule(world) -> None:
    answer = await world.post(
        "/services/create",
        {
            **body_of(),
            "Mode": {"ReplicatedJob": {"TotalCompletions": 2}},
            "Schedule": {"Expression": "@hourly"},
        },
    )
    service_id = answer.json["ID"]
    assert (await world.get("/essaim/services/web/runs")).json == []
    status = CronStatus(
        service_id=service_id,
        considered_ns=9,
        runs=(
            CronRun(number=4, scheduled_ns=0, outcome="skipped", reason="the run before goes on"),
            CronRun(number=5, scheduled_ns=3600 * 10**9, started_ns=3601 * 10**9),
        ),
        next_number=6,
    )
    await world.write(lambda writes: writes.put(status))
    skipped, running = (await world.get("/essaim/services/web/runs")).json
    assert (skipped["Outcome"], skipped["Reason"]) == ("skipped", "the run before goes on")
    assert running == {
        "JobIteration": {"Index": 5},
        "ScheduledAt": "1970-01-01T01:00:00.000000000Z",
        "StartedAt": "1970-01-01T01:00:01.000000000Z",
        "Outcome": "running",
    }
    shown = (await world.get("/services/web")).json
    assert shown["Runs"] == [skipped, running]
    assert shown["JobStatus"]["JobIteration"] == {"Index": 5}
    assert shown["Spec"]["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 2}}
