"""What survives the end of an agent, and of its host."""

import asyncio
import random
from pathlib import Path

import msgspec
import pytest

from essaim_agent.journal import (
    JOURNAL_VERSION,
    WRITE_PAUSE_S,
    DataDirectory,
    HighestTerm,
    Journal,
    Journaled,
    JournaledTask,
    LastHeard,
    replace_file,
)
from essaim_shared.clock import ManualClock, SystemClock, wait_until
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.errors import ConfigError
from essaim_shared.ids import NetworkId, ServiceId, TaskId, new_id
from essaim_shared.messages import Endpoint, NodeNetwork, ServiceEntry
from essaim_shared.objects import Task, TaskStatus
from essaim_shared.spec import TaskSpec
from essaim_shared.task_state import TaskState

SEED = 99


def picture(tasks: int = 1) -> Journaled:
    return Journaled(
        tasks=tuple(
            JournaledTask(
                Task(
                    id=TaskId(f"task{number}"),
                    service_id=ServiceId("s"),
                    service_name="web",
                    slot=number,
                    spec=TaskSpec(container=ContainerSpec(image="busybox", env=("A=é",))),
                    spec_version=1,
                    desired_state=TaskState.RUNNING,
                    created_ns=1,
                    updated_ns=2,
                ),
                TaskStatus(state=TaskState.RUNNING, timestamp_ns=3, container_id="c"),
            )
            for number in range(tasks)
        ),
        networks=(
            NodeNetwork(
                network_id=NetworkId("n"),
                name="default",
                vni=1,
                subnet="10.1.0.0/24",
                mtu=1450,
                gateway="10.1.0.1",
            ),
        ),
        endpoints=(
            Endpoint(network_id=NetworkId("n"), address="10.1.0.9", node_address="192.0.2.2"),
        ),
        services=(ServiceEntry(service_id=ServiceId("s"), network_id=NetworkId("n"), name="web"),),
        nodes=("192.0.2.1",),
    )


async def written(journal: Journal, what: Journaled) -> None:
    journal.changed(lambda: what)
    await journal.close()


async def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    await written(Journal(tmp_path, ManualClock()), picture(3))
    assert Journal(tmp_path, ManualClock()).load() == picture(3)


class _Earlier(msgspec.Struct, frozen=True, kw_only=True):
    """As an agent wrote and read it that knew of no services."""

    version: int = JOURNAL_VERSION
    tasks: tuple[JournaledTask, ...] = ()
    networks: tuple[NodeNetwork, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()


def test_the_versions_before_and_after_read_each_others_journals(tmp_path: Path) -> None:
    now = picture()
    earlier = _Earlier(tasks=now.tasks, networks=now.networks, endpoints=now.endpoints)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(now), type=_Earlier) == earlier
    (tmp_path / "assignments").write_bytes(msgspec.msgpack.encode(earlier))
    read = Journal(tmp_path, ManualClock()).load()
    assert read == msgspec.structs.replace(now, services=(), nodes=())


def test_a_fresh_directory_holds_nothing(tmp_path: Path) -> None:
    assert Journal(tmp_path, ManualClock()).load() == Journaled()


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x93\x01\x02\x03"])
async def test_a_damaged_journal_is_put_aside_and_said_so(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "assignments").write_bytes(damage)
    assert Journal(tmp_path, ManualClock()).load() == Journaled()
    assert (tmp_path / "assignments.damaged").read_bytes() == damage
    assert "journal damaged" in caplog.text
    await written(Journal(tmp_path, ManualClock()), picture())


def test_a_journal_of_another_version_stops_the_agent_with_a_way_out(tmp_path: Path) -> None:
    later = msgspec.structs.replace(picture(), version=7)
    (tmp_path / "assignments").write_bytes(msgspec.msgpack.encode(later))
    with pytest.raises(ConfigError, match=r"version 7.*remove the file"):
        Journal(tmp_path, ManualClock()).load()
    assert (tmp_path / "assignments").exists()


async def test_many_changes_make_few_writes_and_the_last_one_wins(tmp_path: Path) -> None:
    clock = ManualClock()
    journal = Journal(tmp_path, clock)
    running = asyncio.create_task(journal.run())
    journal.changed(lambda: picture(0))
    assert await wait_until(lambda: journal.writes == 1, SystemClock(), 10, poll_s=0)
    for number in range(100):
        journal.changed(lambda n=number: picture(n))  # type: ignore[misc]
    await clock.advance(WRITE_PAUSE_S)
    assert await wait_until(lambda: journal.writes == 2, SystemClock(), 10, poll_s=0)
    await clock.advance(10)
    assert journal.writes == 2
    assert len(Journal(tmp_path, clock).load().tasks) == 99
    running.cancel()
    await asyncio.wait({running})


async def test_an_end_in_the_middle_of_a_write_leaves_a_whole_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ManualClock())
    running = asyncio.create_task(journal.run())
    journal.changed(lambda: picture(500))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})
    await written(journal, picture(2))
    assert len(journal.load().tasks) == 2
    assert not list(tmp_path.glob("*.new"))


def test_a_crash_before_the_rename_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")
    path.with_name("file.new").write_bytes(b"half of the n")
    assert path.read_bytes() == b"old"
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"


# The term.


def test_the_highest_term_is_on_disk_before_anybody_acts_on_it(tmp_path: Path) -> None:
    term = HighestTerm(tmp_path)
    assert term.admits(0)
    assert term.admits(7)
    assert HighestTerm(tmp_path).value == 7
    assert not HighestTerm(tmp_path).admits(6)
    assert HighestTerm(tmp_path).admits(7)


def test_a_damaged_term_stops_the_agent(tmp_path: Path) -> None:
    (tmp_path / "term").write_bytes(b"seven")
    with pytest.raises(ConfigError, match="not a term"):
        HighestTerm(tmp_path)


# The directory.


def test_the_node_id_is_drawn_once(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    drawn = data.node_id(random.Random(SEED))
    assert data.node_id(random.Random(SEED + 1)) == drawn
    data.close()


def test_the_node_id_is_that_of_the_certificate(tmp_path: Path) -> None:
    certified = new_id(random.Random(SEED))
    data = DataDirectory(tmp_path)
    assert data.node_id(random.Random(SEED + 1), certified) == certified
    assert data.node_id(random.Random(SEED + 1)) == certified
    other = new_id(random.Random(SEED + 2))
    with pytest.raises(ConfigError, match=f"the data of node {certified}"):
        data.node_id(random.Random(SEED), other)
    data.close()


def test_a_damaged_node_id_stops_the_agent(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    (tmp_path / "node_id").write_bytes(b"short\n")
    with pytest.raises(ConfigError, match="remove it to join anew"):
        data.node_id(random.Random(SEED))
    data.close()


def test_a_second_agent_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path)
    with pytest.raises(ConfigError, match="another agent"):
        DataDirectory(tmp_path)
    first.close()
    DataDirectory(tmp_path).close()


def test_a_directory_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be used"):
        DataDirectory(tmp_path / "file" / "data")


def test_silence_is_counted_over_a_restart_but_never_backwards(tmp_path: Path) -> None:
    heard = LastHeard(tmp_path)
    assert heard.silence_s(5_000_000_000) == 0.0
    heard.mark(1_000_000_000_000)
    assert LastHeard(tmp_path).silence_s(1_012_500_000_000) == 12.5
    assert LastHeard(tmp_path).silence_s(900_000_000_000) == 0.0


async def test_a_task_that_was_given_up_is_remembered_with_the_reason(tmp_path: Path) -> None:
    (entry,) = picture().tasks
    given_up = msgspec.structs.replace(
        entry, failure="liveness probe failed", is_unhealthy=True, limits_pending=True
    )
    journal = Journal(tmp_path, SystemClock())
    journal.changed(lambda: Journaled(tasks=(given_up,)))
    await journal.close()
    assert Journal(tmp_path, SystemClock()).load().tasks == (given_up,)


def test_the_journal_of_an_agent_that_knew_less_is_understood(tmp_path: Path) -> None:
    """Of before it remembered why tasks were given up."""
    (entry,) = picture().tasks
    old = {"version": 1, "tasks": [{"task": entry.task, "status": entry.status}]}
    replace_file(tmp_path / "assignments", msgspec.msgpack.encode(old))
    assert Journal(tmp_path, SystemClock()).load().tasks == (entry,)
