"""A cluster of two builds: masters are updated one at a time, and nothing is lost meanwhile.

The second build is a copy of this tree that speaks the next cluster version, and whose commands,
messages and objects have a field more, as a next release's would.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.master_processes import MasterProcess, MasterProcesses

from essaim_master.versions import CLUSTER_VERSION

ROOT = Path(__file__).resolve().parents[2]
EXIT_CONFIG = 78

CHANGES = {
    "master/essaim_master/versions.py": [
        (f"CLUSTER_VERSION = {CLUSTER_VERSION}\n", f"CLUSTER_VERSION = {CLUSTER_VERSION + 1}\n")
    ],
    "master/essaim_master/kv/commands.py": [
        (
            "    transaction: Transaction\n",
            '    transaction: Transaction\n    trace: str = "next"\n',
        )
    ],
    "master/essaim_master/raft/messages.py": [
        (
            "    snapshot: SnapshotMetadata | None = None\n",
            '    snapshot: SnapshotMetadata | None = None\n    trace: str = "next"\n',
        )
    ],
    "shared/essaim_shared/objects.py": [
        (
            "    http: str\n    added_ns: int\n",
            '    http: str\n    zone: str = ""\n    added_ns: int\n',
        )
    ],
}
"""File → (what stands there once, what stands there in the next build)."""


@pytest.fixture(scope="module")
def next_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("next")
    for package in ("master", "shared", "cli", "agent"):
        shutil.copytree(
            ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name, changes in CHANGES.items():
        text = (copy / name).read_text()
        for old, new in changes:
            assert text.count(old) == 1, (
                f"{name} changed: {old!r} stands there {text.count(old)} times"
            )
            text = text.replace(old, new)
        (copy / name).write_text(text)
    return copy


@pytest.fixture
def masters(tmp_path: Path) -> Iterator[MasterProcesses]:
    made = MasterProcesses(tmp_path, ("m1", "m2", "m3"))
    yield made
    made.close()


async def write_and_read_everywhere(masters: MasterProcesses, round_name: str) -> None:
    """Each running master takes a write, and every one of them sees all writes."""
    running = [name for name, master in masters.masters.items() if master.process]
    for name in running:
        await masters.ok("kv", "put", f"{round_name}/{name}", f"by {name}", at=name)
    for name in running:
        listed = await masters.ok("kv", "ls", "-o", "json", at=name)
        for writer in running:
            assert f"{round_name}/{writer}" in listed


async def versions(masters: MasterProcesses) -> set[int]:
    return {
        view["ClusterVersion"] for view in (await masters.status()).values() if view is not None
    }


async def update(master: MasterProcess, build: Path, masters: MasterProcesses) -> None:
    witness = next(name for name in masters.masters if name != master.id)
    assert master.stop() == 0
    master.code_path = build
    master.start()

    async def is_back() -> bool:
        view = (await masters.status(at=witness)).get(master.id)
        return view is not None and view["Leader"] is not None and view["AppliedIndex"] > 0

    await masters.eventually(is_back, f"{master.id} follows with the next build")


async def test_an_update_one_master_at_a_time(masters: MasterProcesses, next_build: Path) -> None:
    await masters.start()
    await write_and_read_everywhere(masters, "before")

    for name in ("m1", "m2"):
        await update(masters.masters[name], next_build, masters)
        # Whoever leads: old and new ones take writes and see the same, at the old version.
        await masters.ok("cluster", "transfer-leadership", name, at="m3")
        await masters.until_led(at="m3")
        await write_and_read_everywhere(masters, f"led-by-{name}")
        await masters.ok("cluster", "transfer-leadership", "m3", at="m3")
        await masters.until_led(at="m3")
        await write_and_read_everywhere(masters, f"after-{name}")
        assert await versions(masters) == {CLUSTER_VERSION}

    await update(masters.masters["m3"], next_build, masters)

    async def is_raised() -> bool:
        return await versions(masters) == {CLUSTER_VERSION + 1}

    await masters.eventually(is_raised, "all speak the next version, so the cluster does")
    await write_and_read_everywhere(masters, "updated")

    # From here on there is no way back for a master: it would not understand the others.
    behind = masters.masters["m2"]
    assert behind.stop() == 0
    behind.code_path = None
    behind.start()
    assert await behind.ended() == EXIT_CONFIG
    last = behind.log.splitlines()[-1]
    assert f"the cluster is at version {CLUSTER_VERSION + 1}" in last
    assert "install the version that the other masters run" in last


async def test_a_master_of_the_next_build_joins_with_all_that_was_written(
    masters: MasterProcesses, next_build: Path
) -> None:
    await masters.start()
    await write_and_read_everywhere(masters, "before")
    joining = masters.new("m4")
    joining.code_path = next_build
    await masters.ok(
        "cluster", "members", "add", "m4", "--raft", joining.raft, "--http", joining.http
    )
    joining.start()

    async def is_promoted() -> bool:
        return (await masters.run("cluster", "members", "promote", "m4", at="m1"))[0] == 0

    await masters.eventually(is_promoted, "m4 votes")
    await write_and_read_everywhere(masters, "together")
    rows = json.loads(await masters.ok("cluster", "members", "ls", "-o", "json", at="m4"))
    assert {row["ID"]: row["Role"] for row in rows}["m4"] == "voter"
    assert await versions(masters) == {CLUSTER_VERSION}
