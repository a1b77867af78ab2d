"""The lab's tools: processes that outlive the command, the lock, the web image, what is ours."""

import asyncio
import io
import os
import signal
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from essaim_cli.lab.errors import LabError
from essaim_cli.lab.external import run_command
from essaim_cli.lab.images import web_image_tar
from essaim_cli.lab.lock import labs_locked
from essaim_cli.lab.parts import unready, write_config
from essaim_cli.lab.probes import http_request, introduces_itself, json_of
from essaim_cli.lab.processes import (
    ProcessIdentity,
    process_state,
    read_pid_file,
    send_signal,
    start_process,
    state_of,
)
from essaim_cli.lab.state import Roots
from essaim_cli.lab.topology import plan_lab
from essaim_cli.lab.traces import (
    end_processes,
    find_processes,
    has_traces,
    places_of,
    remove_traces,
)
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.sealing import load_data_key

CLOCK = SystemClock()
WAIT_S = 10.0


@pytest.fixture
def started() -> Iterator[list[int]]:
    """Numbers of processes to end and bury, whatever the test did."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue


def start(tmp_path: Path, started: list[int], *command: str, lab: str = "utest") -> ProcessIdentity:
    identity = start_process(
        command,
        lab=lab,
        namespace=None,
        log_file=tmp_path / "log",
        pid_file=tmp_path / "pid",
        environment={"WORD": "said"},
    )
    started.append(identity.pid)
    return identity


async def test_a_process_holds_nothing_of_what_its_parent_has_open(
    tmp_path: Path, started: list[int]
) -> None:
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        identity = start(tmp_path, started, "sleep", "60")
    held = Path(f"/proc/{identity.pid}/fd")
    assert await wait_until(lambda: "sleep" in command_of(identity.pid), CLOCK, WAIT_S)
    assert sorted(int(entry.name) for entry in held.iterdir()) == [0, 1, 2]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]


async def test_a_process_has_its_own_session_and_writes_to_its_log(
    tmp_path: Path, started: list[int]
) -> None:
    identity = start(tmp_path, started, "sh", "-c", 'echo "$WORD $ESSAIM_LAB"; pwd; exec sleep 60')
    assert read_pid_file(tmp_path / "pid") == identity
    assert await wait_until(
        lambda: (tmp_path / "log").read_text() == "said utest\n/\n", CLOCK, WAIT_S
    )
    assert os.getsid(identity.pid) == identity.pid


async def test_an_ended_process_is_dead_even_while_nobody_buried_it(
    tmp_path: Path, started: list[int]
) -> None:
    identity = start(tmp_path, started, "true")
    assert await wait_until(lambda: state_of(identity) is None, CLOCK, WAIT_S)
    assert process_state(identity.pid) is not None, "a zombie still has its number"
    assert not send_signal(identity, signal.SIGTERM)


def test_another_process_with_the_same_number_is_not_ours() -> None:
    own = process_state(os.getpid())
    assert own is not None
    stranger = ProcessIdentity(os.getpid(), own[1] - 1)
    assert state_of(stranger) is None
    assert not send_signal(stranger, signal.SIGKILL)


@pytest.mark.parametrize("text", ["", "x y", "12", "12 13 14", "\x00"])
def test_a_damaged_pid_file_names_nobody(text: str, tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(text)
    assert read_pid_file(tmp_path / "pid") is None


async def test_processes_of_a_lab_are_found_by_their_mark_and_only_those(
    tmp_path: Path, started: list[int]
) -> None:
    mine = start(tmp_path, started, "sleep", "60", lab="utesta")
    other = start(tmp_path, started, "sleep", "60", lab="utestab")
    places = places_of("utesta", Roots(tmp_path / "run", tmp_path / "data"))
    assert await wait_until(lambda: mine.pid in find_processes(places), CLOCK, WAIT_S)
    assert find_processes(places) == {mine.pid: "mark"}
    await end_processes(places, CLOCK)
    assert state_of(mine) is None
    assert state_of(other) is not None


async def test_a_task_without_the_mark_is_found_by_where_its_output_goes(
    tmp_path: Path, started: list[int]
) -> None:
    where = Roots(tmp_path / "run", tmp_path / "data")
    task_dir = tmp_path / "run/utest/h1/agent/tasks"
    task_dir.mkdir(parents=True)
    with (task_dir / "output").open("wb") as output:
        process = await asyncio.create_subprocess_exec("sleep", "60", stdout=output, env={})
    started.append(process.pid)
    assert find_processes(places_of("utest", where)) == {process.pid: "output"}
    await remove_traces(places_of("utest", where), CLOCK)
    await process.wait()
    assert not has_traces(places_of("utest", where))
    assert not task_dir.exists()


async def test_a_lab_that_never_was_has_no_traces_and_removing_it_is_free(tmp_path: Path) -> None:
    places = places_of("utest", Roots(tmp_path / "run", tmp_path / "data"))
    assert not has_traces(places)
    await remove_traces(places, CLOCK)


@pytest.mark.parametrize(
    ("name", "is_owned"),
    [
        ("essaim-lab-h1", True),
        ("essaim-lab-h12", True),
        ("essaim-lab-switch", True),
        ("essaim-lab2-h1", False),
        ("essaim-lab-h1x", False),
        ("xessaim-lab-h1", False),
        ("essaim-lab", False),
    ],
)
def test_only_namespaces_of_this_lab_are_its_own(name: str, is_owned: bool) -> None:
    places = places_of("lab", Roots(Path("/run/x"), Path("/var/x")))
    assert places.owns_namespace(name) is is_owned


@pytest.mark.parametrize(
    ("path", "is_owned"),
    [
        ("/run/x/lab", True),
        ("/run/x/lab/h1/engine/netns/default", True),
        ("/var/x/lab/h1", True),
        ("/run/x/lab2/h1", False),
        ("/run/x", False),
        ("/", False),
    ],
)
def test_only_paths_inside_the_labs_directories_are_its_own(path: str, is_owned: bool) -> None:
    places = places_of("lab", Roots(Path("/run/x"), Path("/var/x")))
    assert places.owns_path(path) is is_owned


async def test_a_second_command_waits_until_the_first_is_done(tmp_path: Path) -> None:
    root = tmp_path / "labs"
    order: list[str] = []
    inside = asyncio.Event()
    release = asyncio.Event()

    async def first() -> None:
        async with labs_locked(root, CLOCK):
            inside.set()
            await release.wait()
            order.append("first")

    async def second() -> None:
        await inside.wait()
        async with labs_locked(root, CLOCK):
            order.append("second")

    tasks = [asyncio.create_task(first()), asyncio.create_task(second())]
    await inside.wait()
    release.set()
    await asyncio.gather(*tasks)
    assert order == ["first", "second"]
    assert not root.exists(), "the last one leaves nothing"


async def test_a_command_that_fails_gives_its_reason_in_one_line() -> None:
    with pytest.raises(LabError) as failure:
        await run_command(["sh", "-c", "echo first >&2; echo the reason >&2; exit 3"])
    assert str(failure.value).endswith("failed: the reason")
    with pytest.raises(LabError, match="is not installed"):
        await run_command(["no-such-program-here"])
    with pytest.raises(LabError, match=r"did not end within 0\.05 s"):
        await run_command(["sleep", "60"], timeout_s=0.05)


def test_the_web_image_is_the_same_bytes_every_time() -> None:
    archive = web_image_tar(b"a program")
    assert archive == web_image_tar(b"a program")
    with tarfile.open(fileobj=io.BytesIO(archive)) as image:
        names = image.getnames()
        assert {"bin/busybox", "bin/httpd", "bin/serve-hostname", "etc/passwd"} <= set(names)
        assert image.getmember("bin/sh").linkname == "busybox"
        assert image.getmember("bin/serve-hostname").mode == 0o755


@asynccontextmanager
async def server_saying(path: Path, answer: bytes) -> AsyncIterator[Path]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    async with server:
        yield path


@pytest.mark.parametrize(
    ("answer", "seen", "decoded"),
    [
        (b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n[1]", (200, b"[1]"), [1]),
        (b"HTTP/1.1 503 No\r\n\r\n{}", (503, b"{}"), None),
        (b"HTTP/1.1 200 OK\r\n\r\n{broken", (200, b"{broken"), None),
        (b"nonsense", None, None),
        (b"", None, None),
    ],
)
async def test_a_probe_takes_any_answer_and_believes_only_good_ones(
    answer: bytes, seen: object, decoded: object, tmp_path: Path
) -> None:
    async with server_saying(tmp_path / "s", answer) as socket:
        assert await http_request(socket, "/x") == seen
        assert await json_of(socket, "/x") == decoded


async def test_a_probe_of_nobody_is_no_answer(tmp_path: Path) -> None:
    assert await http_request(tmp_path / "nobody", "/") is None
    assert await json_of(tmp_path / "nobody", "/") is None


@pytest.mark.parametrize(
    ("said", "is_one"),
    [(b'INFO {"server_id":"x"} \r\n', True), (b"HTTP/1.1 400 No\r\n", False), (b"", False)],
)
async def test_a_bus_server_is_known_by_how_it_begins(said: bytes, is_one: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await introduces_itself("127.0.0.1", port) is is_one
    assert not await introduces_itself("127.0.0.1", port)


async def test_an_agent_that_waits_for_a_master_is_not_called_silent(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Unavailable\r\n\r\nno session with a leader\n")
        writer.close()

    lab = plan_lab(
        "lab",
        host_count=1,
        master_count=1,
        executor="process",
        subnet_number=0,
        run_root=tmp_path,
        data_root=tmp_path,
    )
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    host = replace(lab.hosts[0], metrics_port=port)
    assert "runs, but is not ready" in await unready(host, "agent")
    assert "(no session with a leader)" in await unready(host, "agent")
    server.close()
    await server.wait_closed()
    assert "is silent" in await unready(host, "agent")


def test_the_masters_of_a_lab_share_a_key_that_stays(tmp_path: Path) -> None:
    topology = plan_lab(
        "utest",
        host_count=4,
        master_count=3,
        executor="process",
        subnet_number=0,
        run_root=tmp_path / "run",
        data_root=tmp_path / "data",
    )
    for _ in range(2):
        for host in topology.hosts:
            write_config(topology, host, None, None)
        files = [host.seal_key_file for host in topology.hosts]
        assert [path.exists() for path in files] == [True, True, True, False]
        keys = {load_data_key(path).id for path in files[:3]}
    assert len(keys) == 1
    assert len({path.read_text() for path in files[:3]}) == 1
