"""The name server as a process of its own, on loopback: its life and that of the agent apart."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import dnslib
import pytest
from support.dns_tables import FRONT, endpoint, picture, service, task

from essaim_agent.dns import link
from essaim_agent.dns.keeper import NameServer
from essaim_agent.network import NetworkError, NetworkPicture
from essaim_shared.clock import SystemClock, wait_until

CLIENT = "127.0.0.1"
PATIENCE_S = 20.0
RSS_KIB_MAX = 35 * 1024


PORTS = range(15_000, 25_000)
"""Below those that the kernel gives to whoever does not care."""


def free_port() -> int:
    """One that nobody has, with UDP or TCP."""
    rng = random.Random(f"{os.getpid()} {os.times().elapsed}")
    for _ in range(100):
        port = rng.choice(PORTS)
        try:
            for each in link.listening_sockets(port):
                each.close()
        except OSError:
            continue
        return port
    raise AssertionError("no port is free")


class Node:
    """A run directory, and the agents that come and go there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.options = ("--resolv-conf", str(directory / "resolv.conf"))
        self.server = self.agent()

    def agent(self, port: int | None = None) -> NameServer:
        return NameServer(
            self.directory,
            SystemClock(),
            random.Random(1),
            port or self.port,
            options=self.options,
        )

    @property
    def pid(self) -> int:
        return int((self.directory / link.LOCK).read_text())

    async def ask(self, name: str = "web", kind: str = "A", tcp: bool = False) -> list[str]:
        """Addresses; or the name of the error."""
        question = dnslib.DNSRecord.question(name, kind)
        raw = await asyncio.to_thread(question.send, CLIENT, self.port, tcp=tcp, timeout=PATIENCE_S)
        answer = dnslib.DNSRecord.parse(raw)
        if answer.header.rcode:
            return [dnslib.RCODE[answer.header.rcode]]
        return [str(record.rdata) for record in answer.rr]


def wanted(*addresses: str) -> NetworkPicture:
    """The service `web`, with tasks; the asking task is at CLIENT."""
    tasks = [endpoint(f"web.{number}", address) for number, address in enumerate(addresses)]
    return picture(service("web"), *tasks, tasks={"client": task((FRONT, CLIENT))})


ONE, TWO = wanted("10.1.0.11"), wanted("10.1.0.12")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    (tmp_path / "resolv.conf").write_text("")
    made = Node(tmp_path)
    await made.server.start()
    yield made
    await made.server.end()


async def eventually(condition: Callable[[], bool]) -> None:
    assert await wait_until(condition, SystemClock(), PATIENCE_S)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


async def test_names_are_answered_once_update_returns(node: Node) -> None:
    await node.server.update(ONE)
    assert await node.ask() == ["10.1.0.11"]
    await node.server.update(TWO)
    assert await node.ask() == ["10.1.0.12"]
    assert await node.ask(tcp=True) == ["10.1.0.12"]
    assert await node.ask("11.0.1.10.in-addr.arpa", "PTR") == ["NXDOMAIN"]


async def test_it_is_a_small_process_of_its_own_session(node: Node) -> None:
    await node.server.update(wanted(*(f"10.1.{n // 250}.{n % 250}" for n in range(2_000))))
    assert os.getsid(node.pid) == node.pid
    status = Path(f"/proc/{node.pid}/status").read_text()
    (rss,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    assert int(rss) < RSS_KIB_MAX


async def test_it_answers_without_any_privilege(node: Node) -> None:
    await node.server.update(ONE)
    lines = Path(f"/proc/{node.pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    assert (status["NoNewPrivs"], int(status["CapEff"], 16), int(status["CapPrm"], 16)) == (
        "1",
        0,
        0,
    )
    assert await node.ask() == ["10.1.0.11"]


async def test_it_outlives_the_agent_and_the_next_one_finds_it(node: Node) -> None:
    await node.server.update(ONE)
    pid = node.pid
    await node.server.close()
    assert await node.ask() == ["10.1.0.11"], "nobody is there, and names are answered"
    node.server = node.agent()
    await node.server.start()
    await eventually(lambda: node.server.is_alive)
    assert await node.ask() == ["10.1.0.11"], "before the agent knows anything"
    await node.server.update(TWO)
    assert await node.ask() == ["10.1.0.12"]
    assert (node.pid, node.server.starts) == (pid, 0)


AGENT = """
import asyncio, random, sys
from pathlib import Path
from support.dns_tables import FRONT, endpoint, picture, service, task
from essaim_agent.dns.keeper import NameServer
from essaim_shared.clock import SystemClock

async def main():
    server = NameServer(Path(sys.argv[1]), SystemClock(), random.Random(1), int(sys.argv[2]))
    await server.start()
    await server.update(
        picture(
            service("web"),
            endpoint("web.1", "10.1.0.77"),
            tasks={"client": task((FRONT, sys.argv[3]))},
        )
    )
    print("told", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_agent_takes_nothing_along(tmp_path: Path) -> None:
    node = Node(tmp_path)
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(tmp_path), str(node.port), CLIENT],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert agent.stdout is not None
    assert await asyncio.to_thread(agent.stdout.readline) == b"told\n"
    agent.kill()
    agent.communicate()
    assert await node.ask() == ["10.1.0.77"]
    await node.server.start()
    try:
        await node.server.update(ONE)
        assert await node.ask() == ["10.1.0.11"]
        assert node.server.starts == 0
    finally:
        await node.server.end()


async def test_a_killed_server_is_started_again_and_no_question_is_lost(node: Node) -> None:
    await node.server.update(ONE)
    pid = node.pid
    os.kill(pid, signal.SIGKILL)
    # Asked at once, with one packet: it waits in the socket, which the agent holds too.
    assert await node.ask() == ["10.1.0.11"]
    assert await node.ask(tcp=True) == ["10.1.0.11"]
    assert node.pid != pid
    await node.server.update(TWO)
    assert await node.ask() == ["10.1.0.12"]
    assert node.server.starts == 2


async def test_an_update_while_the_server_dies_comes_through(node: Node) -> None:
    await node.server.update(ONE)
    os.kill(node.pid, signal.SIGKILL)
    await node.server.update(TWO)
    assert await node.ask() == ["10.1.0.12"]


async def test_a_server_that_died_with_the_agent_is_replaced(node: Node) -> None:
    await node.server.update(ONE)
    pid = node.pid
    await node.server.close()
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not is_running(pid))
    node.server = node.agent()
    await node.server.start()
    await node.server.update(TWO)
    assert await node.ask() == ["10.1.0.12"]


async def test_one_that_hangs_is_killed_by_the_next_agent(node: Node) -> None:
    await node.server.update(ONE)
    pid = node.pid
    await node.server.close()
    os.kill(pid, signal.SIGSTOP)
    node.server = node.agent()
    await node.server.start()
    await _until_true(lambda: _updated(node, TWO))
    assert not is_running(pid)
    assert await node.ask() == ["10.1.0.12"]


async def _until_true(attempt: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(5):
        if await attempt():
            return
    raise AssertionError("not in five attempts")


async def _updated(node: Node, picture: NetworkPicture) -> bool:
    try:
        await node.server.update(picture)
    except NetworkError:
        return False
    return True


async def test_one_of_another_port_is_replaced(node: Node) -> None:
    await node.server.update(ONE)
    pid = node.pid
    await node.server.close()
    node.port = free_port()
    node.server = node.agent()
    await node.server.start()
    await node.server.update(TWO)
    assert await node.ask() == ["10.1.0.12"]
    assert not is_running(pid)


async def test_one_of_another_build_is_replaced_on_the_same_sockets(node: Node) -> None:
    await node.server.update(ONE)
    await node.server.close()
    pid = node.pid
    node.server = node.agent()
    node.server.build = "another"
    asked = asyncio.create_task(node.ask())
    await node.server.start()
    await node.server.update(ONE)
    assert await asked == ["10.1.0.11"], "whichever of the two answered"
    assert node.server.starts == 1
    assert not is_running(pid)


async def test_a_port_that_another_process_has_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = taken.getsockname()[1]
        server = NameServer(tmp_path, SystemClock(), random.Random(1), port)
        await server.start()
        with pytest.raises(NetworkError, match=rf"port {port}.*dns_port"):
            await server.update(ONE)
        assert not server.is_alive
        assert str(port) in server.problems[0]
        await server.close()


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = NameServer(
        tmp_path, SystemClock(), random.Random(1), free_port(), options=("--nonsense",)
    )
    await server.start()
    with pytest.raises(NetworkError, match=r"does not start.*--nonsense"):
        await server.update(ONE)
    await server.close()


async def test_what_it_answered_is_counted(node: Node) -> None:
    await node.server.update(ONE)
    for _ in range(5):
        await node.ask()
    await eventually(lambda: node.server.answers == 5)
    assert node.server.counts.facts == len((*ONE.networks, *ONE.endpoints, *ONE.services, CLIENT))
    assert node.server.problems == ()


async def test_without_anybody_to_ask_names_of_the_world_are_an_error_at_once(node: Node) -> None:
    await node.server.update(ONE)
    assert await node.ask("example.com") == ["SERVFAIL"]
    assert await node.ask("example.com", tcp=True) == ["SERVFAIL"]


async def test_slow_and_greedy_tcp_clients_leave_the_others_alone(node: Node) -> None:
    await node.server.update(ONE)
    greedy = []
    try:
        for _ in range(40):
            connection = socket.create_connection((CLIENT, node.port), timeout=PATIENCE_S)
            greedy.append(connection)
            connection.sendall(b"\0")
        assert await node.ask() == ["10.1.0.11"]
        dropped = await asyncio.to_thread(_first_closed, greedy)
        assert dropped, "no more connections than one may have"
    finally:
        for connection in greedy:
            connection.close()
    assert await node.ask(tcp=True) == ["10.1.0.11"]


def _first_closed(connections: list[socket.socket]) -> bool:
    """The last one is over the limit: it is closed, not served."""
    try:
        return connections[-1].recv(10) == b""
    except ConnectionError:
        return True


async def test_noise_on_its_sockets_ends_nothing(node: Node) -> None:
    await node.server.update(ONE)
    rng = random.Random(11)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noisy:
        for _ in range(300):
            noisy.sendto(rng.randbytes(rng.randrange(0, 1500)), (CLIENT, node.port))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.connect(str(node.directory / link.SOCKET))
        stranger.sendall(b"\0\0\0\x04noise")
    assert await node.ask() == ["10.1.0.11"]
    assert node.server.starts == 1


async def test_it_ends_when_told_by_a_command(node: Node) -> None:
    await node.server.update(ONE)
    pid = node.pid
    await node.server.close()
    ended = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "essaim_agent.dns", "--run-dir", str(node.directory), "--end"]
    )
    assert await ended.wait() == 0
    await eventually(lambda: not is_running(pid))
    again = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "essaim_agent.dns", "--run-dir", str(node.directory), "--end"]
    )
    assert await again.wait() == 0, "none running is fine"
