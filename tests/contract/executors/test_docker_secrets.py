"""Files of secrets in real containers, on a real tmpfs; and nothing of them anywhere else."""

import logging
import os
import secrets
import stat
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from essaim_agent.executor import ExecutorError
from essaim_agent.payloads.files import MemoryFiles
from essaim_agent.payloads.store import PayloadStore
from essaim_agent.payloads.tmpfs import MountPoint, is_mounted
from essaim_shared.clock import SystemClock
from essaim_shared.objects import Task

pytestmark = pytest.mark.lab

PATIENCE_S = 30.0
SECRET_BYTES_MAX = 500 * 1024


@pytest.fixture
def bench(docker_bench: Any) -> Any:
    return docker_bench


async def run(bench: Any, task: Task) -> None:
    await bench.files.prepare(task)
    await bench.executor.prepare(task)
    await bench.executor.start(task, bench.namespace())
    await bench.ready(task)


def options_of(path: Path) -> set[str]:
    """Of the mount at this path, and of its file system."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == str(path):
            return {*words[5].split(","), *words[-1].split(",")}
    raise AssertionError(f"nothing is mounted at {path}")


def files_with(text: str, directory: Path) -> list[str]:
    """Of the engine's data, its logs and the run directory, but not of what is mounted there."""
    search = ["find", str(directory), "-xdev", "-type", "f", "-size", "-64M"]
    found = subprocess.run(
        [*search, "-exec", "grep", "-lF", text, "{}", "+"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.splitlines()


async def test_the_files_are_on_a_tmpfs_for_root_alone(bench: Any) -> None:
    bench.files.open()
    directory = bench.files.directory
    assert is_mounted(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    options = options_of(directory)
    assert {"nosuid", "nodev", "noexec"} <= options
    assert any(option.startswith("size=") for option in options)
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    assert ("noswap" in options) is (release >= (6, 4))


async def test_a_container_can_read_its_files_and_not_change_them(bench: Any) -> None:
    task = bench.with_files(bench.sleeper(), secret=b"one", config=b"two")
    await run(bench, task)
    for target in ("/run/secrets/secret", "/config"):
        for attempt in (f"echo x >{target}", f"busybox rm {target}", f"busybox chmod 777 {target}"):
            code, output = bench.run_in(task, "sh", "-c", f"PATH=/bin; {attempt}")
            assert code != 0, (attempt, output)
    assert bench.file_in(task, "/run/secrets/secret")[0] == b"one"
    assert bench.run_in(task, "ls", "/run/secrets") == (0, b"secret\n")


async def test_secrets_of_the_largest_size_and_twenty_of_them_arrive_whole(bench: Any) -> None:
    data = {f"secret{number}": secrets.token_bytes(SECRET_BYTES_MAX) for number in range(20)}
    data["secret_empty"] = b""
    task = bench.with_files(bench.sleeper(), **data)
    await run(bench, task)
    for name, content in data.items():
        assert bench.file_in(task, f"/run/secrets/{name}")[0] == content


async def test_a_user_may_read_what_is_his_and_nobody_elses(bench: Any) -> None:
    task = bench.with_files(bench.sleeper(), secret=b"one")
    container = msgspec.structs.replace(task.spec.container, user="1000:1")
    task = msgspec.structs.replace(
        task, spec=msgspec.structs.replace(task.spec, container=container)
    )
    await run(bench, task)
    assert bench.run_in(task, "cat", "/run/secrets/secret") == (0, b"one")
    stranger = msgspec.structs.replace(container, user="1001:1")
    other = bench.with_files(bench.sleeper(), secret=b"one")
    other = msgspec.structs.replace(
        other,
        spec=msgspec.structs.replace(
            other.spec,
            container=msgspec.structs.replace(stranger, secrets=other.spec.container.secrets),
        ),
    )
    await run(bench, other)
    code, output = bench.run_in(other, "cat", "/run/secrets/secret")
    assert code != 0
    assert b"Permission denied" in output


async def test_files_outlive_the_engine_and_the_agent(bench: Any) -> None:
    task = bench.with_files(bench.sleeper(), secret=b"one")
    await run(bench, task)
    bench.payloads.is_away = True
    await bench.restart_engine()
    await bench.new_agent()
    await bench.executor.open()
    bench.files.open()
    bench.files.keep_only([task.id])
    await bench.files.prepare(task)
    assert bench.file_in(task, "/run/secrets/secret")[0] == b"one"


async def test_files_of_a_task_that_is_over_are_gone_before_its_container(bench: Any) -> None:
    task = bench.with_files(bench.sleeper(), secret=b"one")
    await run(bench, task)
    await bench.executor.stop(task)
    bench.files.release(task.id)
    assert list(bench.files.directory.iterdir()) == []
    await bench.executor.remove(task.id)
    assert await bench.executor.found() == []


async def test_a_file_that_is_not_there_keeps_the_container_from_being_made(bench: Any) -> None:
    task = bench.with_files(bench.sleeper(), secret=b"one")
    await bench.executor.prepare(task)
    with pytest.raises(ExecutorError, match="does not exist"):
        await bench.executor.start(task, bench.namespace())
    assert not (bench.files.directory / task.id).exists()
    # Nothing was made in its place, and the same attempt succeeds with the file.
    await run(bench, task)
    assert bench.file_in(task, "/run/secrets/secret")[0] == b"one"


async def test_no_trace_of_a_secret_is_on_a_disk_or_in_what_is_told(
    bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    marker = f"marker-{secrets.token_hex(16)}"
    task = bench.with_files(bench.sleeper(), secret=marker.encode() * 40, config=marker.encode())
    await run(bench, task)
    assert bench.run_in(task, "cat", "/config") == (0, marker.encode())
    client = bench.engine.client()
    inspected = msgspec.json.encode(client.inspect_container(f"{task.name}.{task.id}"))
    events = [
        line
        for line in client.events(since=0, until=int(SystemClock().wall_ns() // 10**9) + 1)
        if task.id.encode() in line
    ]
    client.close()
    assert f"{bench.files.directory}/{task.id}/secret-0".encode() in inspected
    assert events
    for told in (inspected, *events, caplog.text.encode()):
        assert marker.encode() not in told
    assert files_with(marker, bench.engine.directory) == []
    assert files_with(task.id, bench.engine.directory), "the engine's own files are looked at"
    assert is_mounted(bench.files.directory)


# The file system.


async def test_an_agent_finds_the_mount_of_the_one_before_it(tmp_path: Path) -> None:
    first, second = MountPoint(tmp_path / "secrets"), MountPoint(tmp_path / "secrets")
    first.ensure()
    (first.path / "kept").touch()
    try:
        second.ensure()
        assert (second.path / "kept").exists()
        second.remove()
        assert not second.path.exists()
        assert not is_mounted(second.path)
        second.remove()
    finally:
        first.remove()


async def test_what_somebody_unmounts_is_mounted_anew_before_anything_is_written(
    bench: Any,
) -> None:
    task = bench.with_files(bench.sleeper(), secret=b"one")
    bench.files.open()
    subprocess.run(["umount", str(bench.files.directory)], check=True)
    await bench.files.prepare(task)
    assert is_mounted(bench.files.directory)
    assert (bench.files.directory / task.id / "secret-0").read_bytes() == b"one"


async def test_a_full_file_system_refuses_the_task_in_words_and_keeps_the_others(
    bench: Any, tmp_path: Path
) -> None:
    files = MemoryFiles(tmp_path, PayloadStore(bench.payloads))
    files.open()
    try:
        subprocess.run(["mount", "-o", "remount,size=64k", str(files.directory)], check=True)
        small = bench.with_files(bench.sleeper(), secret=b"one")
        large = bench.with_files(bench.sleeper(), secretlarge=b"x" * SECRET_BYTES_MAX)
        await files.prepare(small)
        with pytest.raises(ExecutorError, match=r"no room .* is full$"):
            await files.prepare(large)
        assert [path.name for path in files.directory.iterdir()] == [small.id]
    finally:
        files.remove()


async def test_where_nothing_can_be_mounted_a_task_is_refused(bench: Any, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    files = MemoryFiles(blocked, PayloadStore(bench.payloads))
    files.open()
    task = bench.with_files(bench.sleeper(), secret=b"one")
    with pytest.raises(ExecutorError, match="cannot be made: Not a directory"):
        await files.prepare(task)
    assert bench.payloads.asked.total() == 0
