"""`/swarm` and its one setting."""

import pytest


async def read(world):
    swarm = (await world.get("/v1.47/swarm")).json
    return swarm["Version"]["Index"], swarm["Spec"]


async def test_the_task_history_limit_is_kept_and_shown(world) -> None:
    version, spec = await read(world)
    assert spec["Orchestration"] == {"TaskHistoryRetentionLimit": 5}
    spec["Orchestration"]["TaskHistoryRetentionLimit"] = 2
    answer = await world.post(f"/swarm/update?version={version}", spec)
    assert (answer.status, answer.body) == (200, b"")
    assert world.state.settings.task_history_limit == 2
    newer, shown = await read(world)
    assert shown["Orchestration"] == {"TaskHistoryRetentionLimit": 2}
    assert newer > version
    cluster = (await world.get("/info")).json["Swarm"]["Cluster"]
    assert cluster["Spec"]["Orchestration"] == {"TaskHistoryRetentionLimit": 2}


async def test_an_update_needs_the_version_that_the_client_read(world) -> None:
    version, spec = await read(world)
    spec["Orchestration"]["TaskHistoryRetentionLimit"] = 2
    assert (await world.post(f"/swarm/update?version={version}", spec)).status == 200
    stale = await world.post(f"/swarm/update?version={version}", spec)
    assert (stale.status, stale.message) == (
        500,
        "rpc error: code = Unknown desc = update out of sequence",
    )


async def test_of_two_updates_at_once_one_succeeds(world) -> None:
    version, spec = await read(world)

    async def rival():
        other = {"Orchestration": {"TaskHistoryRetentionLimit": 3}}
        await world.post(f"/swarm/update?version={version}", other)

    world.cluster.before_commit.append(rival)
    spec["Orchestration"]["TaskHistoryRetentionLimit"] = 2
    assert (await world.post(f"/swarm/update?version={version}", spec)).status == 500
    assert world.state.settings.task_history_limit == 3


async def test_a_spec_written_back_as_it_was_read_changes_nothing(world) -> None:
    version, spec = await read(world)
    # Go's client fills in the zeroes of what it was not told.
    spec["Raft"] = {"ElectionTick": 0, "HeartbeatTick": 0}
    revision = world.state.revision
    assert (await world.post(f"/swarm/update?version={version}", spec)).status == 200
    assert world.state.revision == revision


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"Orchestration": {"TaskHistoryRetentionLimit": -1}}, 400, "a number from 0 to 100"),
        ({"Orchestration": {"TaskHistoryRetentionLimit": 101}}, 400, "a number from 0 to 100"),
        ({"Orchestration": {"TaskHistoryRetentionLimit": "x"}}, 400, "a number from 0 to 100"),
        ({"Orchestration": {"TaskHistoryRetentionLimit": True}}, 400, "a number from 0 to 100"),
        ({"Name": "mine"}, 501, "modification of cluster name is not allowed"),
        ({"Labels": {"a": "b"}}, 501, '"Labels" cannot be changed'),
        ({"Dispatcher": {"HeartbeatPeriod": 7}}, 501, '"Dispatcher.HeartbeatPeriod" cannot'),
        ({"Raft": {"SnapshotInterval": 9}}, 501, "in the configuration of the masters"),
        ({"caconfig": {"NodeCertExpiry": 9}}, 501, '"CAConfig.NodeCertExpiry" cannot be changed'),
        ({"EncryptionConfig": {"AutoLockManagers": True}}, 501, "encrypt the disk"),
        ({"TaskDefaults": {"LogDriver": {"Name": "x"}}}, 501, "give each service its log driver"),
        ({"Colour": 1}, 501, '"Colour" cannot be changed: Essaim has no such setting'),
    ],
)
async def test_what_cannot_be_set_is_refused_by_name(world, change, status, sentence) -> None:
    version, spec = await read(world)
    revision = world.state.revision
    answer = await world.post(f"/swarm/update?version={version}", {**spec, **change})
    assert answer.status == status
    assert sentence in answer.message
    assert world.state.revision == revision


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"rotateWorkerToken": "true"}, "this cluster has no authority"),
        ({"rotateManagerUnlockKey": "true"}, "Essaim's masters have no lock"),
        ({"ForceRotate": 1}, "this cluster has no authority"),
        ({"ForceRotate": "x"}, "it is a number"),
    ],
)
async def test_without_an_authority_there_is_nothing_to_rotate(world, asked, sentence) -> None:
    version, spec = await read(world)
    force = asked.pop("ForceRotate", 0)
    query = "".join(f"&{name}={value}" for name, value in asked.items())
    spec = {**spec, "CAConfig": {"ForceRotate": force}}
    answer = await world.post(f"/swarm/update?version={version}{query}", spec)
    assert answer.status in (400, 501)
    assert sentence in answer.message
