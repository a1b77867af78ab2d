"""Masters come, vote, lead and go: real processes, driven by the command line."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.master_processes import MasterProcesses

EXIT_CONFIG = 78


@pytest.fixture
def masters(tmp_path: Path) -> Iterator[MasterProcesses]:
    made = MasterProcesses(tmp_path, ("m1", "m2", "m3"))
    yield made
    made.close()


async def roles(masters: MasterProcesses, at: str = "") -> dict[str, str]:
    found = json.loads(await masters.ok("cluster", "members", "ls", "-o", "json", at=at))
    return {row["ID"]: row["Role"] for row in found}


async def test_a_master_joins_learns_votes_leads_and_is_removed(masters: MasterProcesses) -> None:
    await masters.start()
    await masters.ok("kv", "put", "color", "blue")
    joining = masters.new("m4")
    await masters.ok(
        "cluster", "members", "add", "m4", "--raft", joining.raft, "--http", joining.http
    )
    assert (await roles(masters))["m4"] == "learner"
    joining.start()

    async def is_promoted() -> bool:
        code, _, _ = await masters.run("cluster", "members", "promote", "m4", at="m1")
        return code == 0

    await masters.eventually(is_promoted, "m4 has caught up and votes")
    assert (await roles(masters, at="m4"))["m4"] == "voter"
    assert "blue" in await masters.ok("kv", "get", "color", at="m4")

    await masters.ok("cluster", "transfer-leadership", "m4", at="m1")
    assert await masters.until_led(at="m2") == "m4"

    # The leader itself goes: it hands over first, and ends with a clear line.
    await masters.ok("cluster", "members", "rm", "m4", at="m4")
    assert await joining.ended() == EXIT_CONFIG
    assert "m4 was removed from the cluster and stops" in joining.log.splitlines()[-1]
    assert await masters.until_led(at="m1") in ("m1", "m2", "m3")
    assert set(await roles(masters)) == {"m1", "m2", "m3"}
    await masters.ok("kv", "put", "color", "green")

    # The name is used up, whatever disk it would come with.
    code, _, err = await masters.run(
        "cluster", "members", "add", "m4", "--raft", joining.raft, "--http", joining.http
    )
    assert (code, "choose a new one" in err) == (1, True)


async def test_a_removed_master_that_was_away_is_told_when_it_returns(
    masters: MasterProcesses,
) -> None:
    await masters.start()
    await masters.until_led(at="m1")
    masters.masters["m3"].stop()

    async def is_removed() -> bool:
        """Not before another one leads, if m3 did."""
        return (await masters.run("cluster", "members", "rm", "m3", at="m1"))[0] == 0

    await masters.eventually(is_removed, "m3 is removed")
    masters.masters["m3"].start()
    assert await masters.masters["m3"].ended() == EXIT_CONFIG
    assert "m3 was removed from the cluster and stops" in masters.masters["m3"].log


async def test_every_master_shows_all_of_them(masters: MasterProcesses) -> None:
    await masters.start()
    leader = await masters.until_led()

    async def is_announced() -> bool:
        status = await masters.status(at="m3")
        return all(view is not None and view["ClusterVersion"] == 1 for view in status.values())

    await masters.eventually(is_announced, "the cluster's version is raised")
    status = await masters.status(at="m2")
    assert set(status) == {"m1", "m2", "m3"}
    assert status[leader]["Role"] == "leader"
    assert set(status[leader]["Progress"]) == {"m1", "m2", "m3"}
    assert sum(view["Role"] == "follower" for view in status.values()) == 2
    assert {view["Term"] for view in status.values()} == {status[leader]["Term"]}
    table = await masters.ok("raft", "status")
    assert table.splitlines()[0].split()[:3] == ["ID", "ROLE", "TERM"]
    masters.masters["m3"].stop()
    assert (await masters.status(at="m1"))["m3"] is None

    log = json.loads(await masters.ok("raft", "log", "--from", "1", "--limit", "5", "-o", "json"))
    assert [entry["Index"] for entry in log["Entries"]] == [1, 2, 3, 4, 5]
    assert log["Entries"][0]["Kind"] == "no_op"
    dump = [json.loads(line) for line in (await masters.ok("raft", "dump")).splitlines()]
    assert {item["Key"] for item in dump} >= {"/cluster/info", "/members/m1", "/cluster/version"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("add", "m 5", "--raft", "127.0.0.1:1", "--http", "127.0.0.1:2"),
            "is no name of a master",
        ),
        (("add", "m5", "--raft", "nowhere", "--http", "127.0.0.1:2"), "is no address"),
        (("add", "m1", "--raft", "127.0.0.1:1", "--http", "127.0.0.1:2"), "already"),
        (("promote", "m9"), "no master m9"),
        (("promote", "m1"), "votes already"),
        (("rm", "m9"), "no master m9"),
    ],
)
async def test_what_cannot_be_done_is_said_in_a_line(
    alone: MasterProcesses, arguments: tuple[str, ...], sentence: str
) -> None:
    code, _, err = await alone.run("cluster", "members", *arguments)
    assert code == 1
    assert sentence in err
    assert len(err.splitlines()) == 1


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[MasterProcesses]:
    made = MasterProcesses(tmp_path, ("m1",))
    await made.start()
    yield made
    made.close()


async def test_the_only_voter_stays(alone: MasterProcesses) -> None:
    code, _, err = await alone.run("cluster", "members", "rm", "m1")
    assert code == 1
    assert "the only voter" in err
    code, _, err = await alone.run("cluster", "transfer-leadership")
    assert code == 1
    assert "no other master votes here" in err


async def test_a_backup_of_the_running_cluster_is_whole_and_stopped_files_show_the_same(
    masters: MasterProcesses, tmp_path: Path
) -> None:
    await masters.start()
    await masters.ok("kv", "put", "color", "blue")
    file = tmp_path / "backup"
    code, _, err = await masters.run("cluster", "backup", str(file), at="m2")
    assert code == 1, "these masters share no key"
    assert "set seal_key_file on all masters, or ask for an open one with --unencrypted" in err
    assert not file.exists()
    said = await masters.ok("cluster", "backup", str(file), "--unencrypted", at="m2")
    assert said.startswith(f"{file}: cluster test, entry ")
    assert file.stat().st_size > 0
    assert file.stat().st_mode & 0o077 == 0, "an open one is nobody else's to read"
    assert not (tmp_path / "backup.partial").exists()

    key_id = (await masters.ok("cluster", "rotate-data-key", at="m2")).strip()
    await masters.ok("kv", "put", "planted", "planted-value", at="m2")
    running = (await masters.ok("raft", "dump", at="m2")).splitlines()
    data_dir = str(masters.masters["m2"].data_dir)
    code, _, err = await masters.run("raft", "dump", "--data-dir", data_dir)
    assert code == 1, "the files of a running master are its own"
    assert len(err.splitlines()) == 1
    assert masters.masters["m2"].stop() == 0
    stopped = (await masters.ok("raft", "dump", "--data-dir", data_dir)).splitlines()
    assert [json.loads(line)["Key"] for line in stopped] == [
        json.loads(line)["Key"] for line in running
    ]
    written = [path for path in Path(data_dir).rglob("*") if path.is_file()]
    assert not [path for path in written if b"planted" in path.read_bytes()]
    newest = sorted(Path(data_dir).glob("wal/*.wal"))[-1].read_bytes()
    assert bytes.fromhex(key_id) in newest, "the log went on with the new key"
    log = json.loads(await masters.ok("raft", "log", "-o", "json", "--data-dir", data_dir))
    assert log["MemberID"] == "m2"
    assert any("/kv/color" in entry["Summary"] for entry in log["Entries"])
    code, _, err = await masters.run("cluster", "backup", "/nowhere/backup", at="m1")
    assert (code, err) == (1, "Error: cannot write /nowhere/backup: No such file or directory\n")
