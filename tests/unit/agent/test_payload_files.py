"""The files of a task's secrets, in a plain directory; on a real tmpfs and in containers they are
looked at in the contract tests."""

import os
import stat
from pathlib import Path

import msgspec
import pytest

from essaim_agent.executor import ExecutorError, Refused, Temporary
from essaim_agent.payloads.fake_payloads import FakePayloads
from essaim_agent.payloads.files import TASK_BYTES_MAX, MemoryFiles
from essaim_agent.payloads.references import PayloadKey
from essaim_agent.payloads.store import PayloadStore
from essaim_agent.payloads.tmpfs import mounted_at
from essaim_shared.container_spec import (
    ConfigReference,
    ContainerSpec,
    ReferencedFile,
    SecretReference,
)
from essaim_shared.ids import ServiceId, TaskId
from essaim_shared.objects import Task
from essaim_shared.spec import TaskSpec
from essaim_shared.task_state import TaskState

SECRET, CONFIG = PayloadKey("secret", "s" * 25, 4), PayloadKey("config", "c" * 25, 1)
PASSWORD = b"correct horse"


class PlainDirectory:
    """A `Place` without a file system of its own."""

    may_swap = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failure = ""

    def ensure(self) -> None:
        if self.failure:
            raise ExecutorError(self.failure)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def remove(self) -> None:
        self.path.rmdir()


def make_task(task_id: str = "task1", mode: int = 0o440) -> Task:
    own = {"uid": str(os.getuid()), "gid": str(os.getgid())}
    container = ContainerSpec(
        image="busybox",
        secrets=(
            SecretReference(
                file=ReferencedFile(name="password", mode=mode, **own),
                secret_id=SECRET.id,
                secret_name="db-password",
                data_version=SECRET.number,
            ),
        ),
        configs=(
            ConfigReference(
                file=ReferencedFile(name="/etc/app.conf", **own),
                config_id=CONFIG.id,
                config_name="app",
                data_version=CONFIG.number,
            ),
        ),
    )
    return Task(
        id=TaskId(task_id),
        service_id=ServiceId("service"),
        service_name="web",
        slot=1,
        spec=TaskSpec(container=container),
        spec_version=1,
        desired_state=TaskState.RUNNING,
        created_ns=1,
        updated_ns=1,
    )


@pytest.fixture
def source() -> FakePayloads:
    made = FakePayloads()
    made.put(SECRET, PASSWORD)
    made.put(CONFIG, b"a = 1\n")
    return made


@pytest.fixture
def place(tmp_path: Path) -> PlainDirectory:
    return PlainDirectory(tmp_path / "secrets")


@pytest.fixture
def files(tmp_path: Path, source: FakePayloads, place: PlainDirectory) -> MemoryFiles:
    made = MemoryFiles(tmp_path, PayloadStore(source), place)
    made.open()
    return made


async def test_each_file_has_its_data_and_the_mode_asked_for(files: MemoryFiles) -> None:
    before = os.umask(0o077)
    try:
        await files.prepare(make_task(mode=0o447))
    finally:
        os.umask(before)
    own = files.directory / "task1"
    assert sorted(path.name for path in own.iterdir()) == ["config-1", "secret-0"]
    assert (own / "secret-0").read_bytes() == PASSWORD
    assert (own / "config-1").read_bytes() == b"a = 1\n"
    assert stat.S_IMODE((own / "secret-0").stat().st_mode) == 0o447
    assert stat.S_IMODE((own / "config-1").stat().st_mode) == 0o444
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


async def test_preparing_again_asks_nobody_also_in_the_next_agent(
    files: MemoryFiles, source: FakePayloads, tmp_path: Path, place: PlainDirectory
) -> None:
    await files.prepare(make_task())
    await files.prepare(make_task())
    source.is_away = True
    next_agents = MemoryFiles(tmp_path, PayloadStore(source), place)
    await next_agents.prepare(make_task())
    assert source.asked.total() == 2


async def test_a_task_without_any_needs_no_place(files: MemoryFiles, place: PlainDirectory) -> None:
    place.failure = "no tmpfs can be mounted"
    files.open()
    task = make_task()
    plain = msgspec.structs.replace(task, spec=TaskSpec(container=ContainerSpec(image="busybox")))
    await files.prepare(plain)
    with pytest.raises(ExecutorError, match="no tmpfs can be mounted"):
        await files.prepare(task)


async def test_nothing_is_written_before_all_is_fetched(
    files: MemoryFiles, source: FakePayloads
) -> None:
    del source.held[CONFIG]
    with pytest.raises(Refused, match=r'^config "app": no task of this node uses it$'):
        await files.prepare(make_task())
    source.put(CONFIG, b"")
    source.is_away = True
    with pytest.raises(Temporary):
        await files.prepare(make_task())
    assert list(files.directory.iterdir()) == []
    source.is_away = False
    await files.prepare(make_task())
    assert [path.name for path in files.directory.iterdir()] == ["task1"]


async def test_what_a_crash_left_half_written_is_begun_anew(files: MemoryFiles) -> None:
    half = files.directory / "task1.new"
    half.mkdir()
    (half / "secret-0").write_bytes(b"ha")
    await files.prepare(make_task())
    assert [path.name for path in files.directory.iterdir()] == ["task1"]
    assert (files.directory / "task1" / "secret-0").read_bytes() == PASSWORD


async def test_files_go_with_their_task_and_their_data_with_the_last(
    tmp_path: Path, source: FakePayloads, place: PlainDirectory
) -> None:
    store = PayloadStore(source)
    files = MemoryFiles(tmp_path, store, place)
    for name in ("task1", "task2"):
        await files.prepare(make_task(name))
    files.release(TaskId("task1"))
    files.release(TaskId("task1"))
    assert [path.name for path in files.directory.iterdir()] == ["task2"]
    assert store.kept == {SECRET, CONFIG}
    files.release(TaskId("task2"))
    assert list(files.directory.iterdir()) == []
    assert store.kept == frozenset()


async def test_leftovers_of_tasks_that_are_gone_are_swept(files: MemoryFiles) -> None:
    for name in ("task1", "task2", "task3"):
        await files.prepare(make_task(name))
    (files.directory / "task4.new").mkdir()
    files.keep_only([TaskId("task2"), TaskId("other")])
    assert [path.name for path in files.directory.iterdir()] == ["task2"]


async def test_an_id_of_a_task_is_no_way_out_of_the_directory(files: MemoryFiles) -> None:
    precious = files.directory.parent / "precious"
    precious.mkdir()
    for task_id in ("../precious", "..", "."):
        with pytest.raises(Refused, match="is no id of a task"):
            await files.prepare(make_task(task_id))
        files.release(TaskId(task_id))
    assert precious.is_dir()
    assert files.directory.is_dir()


async def test_a_task_is_given_a_bounded_number_of_bytes(
    files: MemoryFiles, source: FakePayloads
) -> None:
    task = make_task()
    container = task.spec.container
    count = 50
    source.put(SECRET, b"x" * (TASK_BYTES_MAX // count + 1))
    secrets = tuple(
        msgspec.structs.replace(container.secrets[0], file=ReferencedFile(name=f"s{number}"))
        for number in range(count)
    )
    spec = TaskSpec(container=msgspec.structs.replace(container, secrets=secrets, configs=()))
    with pytest.raises(Refused, match=f"a task can be given {TASK_BYTES_MAX}"):
        await files.prepare(msgspec.structs.replace(task, spec=spec))
    assert list(files.directory.iterdir()) == []


async def test_no_error_holds_any_data(files: MemoryFiles) -> None:
    (files.directory / "task1.new").symlink_to("/dev/null/x")
    (files.directory / "task1").symlink_to("/nowhere")
    with pytest.raises(ExecutorError) as refusal:
        await files.prepare(make_task())
    assert PASSWORD.decode() not in repr(refusal.value)
    assert refusal.value.__cause__ is None
    assert "\n" not in str(refusal.value)


MOUNTINFO = r"""
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 0:35 / /run/a\040b rw,nosuid shared:9 - tmpfs essaim-secrets rw,size=1k
41 22 0:36 /x /run/file rw - ext4 /dev/vda1 rw
42 22 0:37 / /run/file rw master:3 - tmpfs none rw
""".strip()


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/run/a b", ("tmpfs", "rw", "size=1k")),
        ("/", ("ext4", "rw")),
        ("/run/file", ("tmpfs", "rw")),
        ("/run", ()),
    ],
)
def test_the_mount_made_last_at_a_path_is_the_one_seen(path: str, seen: tuple[str, ...]) -> None:
    assert mounted_at(MOUNTINFO, path) == seen
