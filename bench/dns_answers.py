"""How many names a node's name server answers in a second, and what a change of its table costs.

    .venv/bin/python bench/dns_answers.py --seconds 5 --tasks 16

A name server of its own with 1,000 services of 10 tasks each, and clients in another process, each
at a loopback address that stands for a task and with some questions under way. The names are hot:
50 of them, half of services (one address), half of their tasks (ten addresses in turn). Meanwhile
an agent changes one endpoint at a time.

The two processes want a core each: where there are fewer, what counts is answers per second of the
server's own CPU time.
"""

import argparse
import asyncio
import json
import os
import random
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from essaim_agent.dns.keeper import NameServer
from essaim_agent.dns.link import LOCK
from essaim_agent.network import NetworkPicture
from essaim_shared.clock import SystemClock
from essaim_shared.ids import NetworkId, ServiceId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork, ServiceEntry
from essaim_shared.objects import Attachment

PORT = 17_453
SERVICES, TASKS_EACH = 1_000, 10
HOT_NAMES = 50
WINDOW = 4
"""Questions under way from each client."""
CHANGES = 50
NETWORK = NetworkId("n" * 25)


def clients(count: int) -> list[str]:
    return [f"127.0.1.{number + 1}" for number in range(count)]


def endpoint(number: int, state: str = "serving") -> Endpoint:
    service, slot = divmod(number, TASKS_EACH)
    return Endpoint(
        network_id=NETWORK,
        address=f"10.{number // 62_500}.{number // 250 % 250}.{number % 250}",
        node_address="192.0.2.1",
        task_id=TaskId(f"t{number:024d}"),
        service_id=ServiceId(f"s{service:024d}"),
        slot=str(slot + 1),
        hostname=f"{number:012x}",
        state=state,  # type: ignore[arg-type]
    )


def picture(tasks: int) -> NetworkPicture:
    network = NodeNetwork(
        network_id=NETWORK, name="bench", vni=1, subnet="10.0.0.0/8", mtu=1450, gateway="10.0.0.1"
    )
    services = [
        ServiceEntry(
            service_id=ServiceId(f"s{number:024d}"),
            network_id=NETWORK,
            name=f"web{number}",
            vip=f"172.20.{number // 250}.{number % 250}",
        )
        for number in range(SERVICES)
    ]
    return NetworkPicture(
        networks={NETWORK: network},
        endpoints=frozenset(endpoint(number) for number in range(SERVICES * TASKS_EACH)),
        services=frozenset(services),
        tasks={
            TaskId(address): (Attachment(network_id=NETWORK, address=address),)
            for address in clients(tasks)
        },
    )


def question(name: str) -> bytes:
    """Without its id: one question for an address."""
    labels = b"".join(bytes((len(part),)) + part.encode() for part in name.split("."))
    return b"\x01\0\0\x01\0\0\0\0\0\0" + labels + b"\0\0\x01\0\x01"


def ask(seconds: float, tasks: int) -> None:
    """The clients; prints what they saw."""
    names = [f"web{n}" for n in range(HOT_NAMES // 2)]
    tails = [question(name) for name in (*names, *(f"tasks.{name}" for name in names))]
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    begun: dict[tuple[int, bytes], float] = {}
    took_s: list[float] = []
    number = 0

    def send(client: socket.socket) -> None:
        nonlocal number
        number = (number + 1) % 65_536
        id_bytes = number.to_bytes(2, "big")
        begun[client.fileno(), id_bytes] = time.perf_counter()
        client.send(id_bytes + tails[number % len(tails)])

    for address in clients(tasks):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.bind((address, 0))
        client.connect(("127.0.0.1", PORT))
        client.setblocking(False)
        sockets[client.fileno()] = client
        poll.register(client, select.EPOLLIN)
        for _ in range(WINDOW):
            send(client)
    start_s = time.perf_counter()
    while time.perf_counter() - start_s < seconds:
        for fd, _ in poll.poll(1):
            client = sockets[fd]
            try:
                while True:
                    data = client.recv(2048)
                    took_s.append(time.perf_counter() - begun.pop((fd, data[:2])))
                    send(client)
            except BlockingIOError:
                continue
    elapsed_s = time.perf_counter() - start_s
    took_s.sort()
    print(
        json.dumps(
            {
                "answers_per_s": len(took_s) / elapsed_s,
                "p50_ms": took_s[len(took_s) // 2] * 1e3,
                "p99_ms": took_s[len(took_s) * 99 // 100] * 1e3,
                "lost": len(begun) - WINDOW * tasks,
            }
        )
    )


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


async def change(server: NameServer, base: NetworkPicture) -> list[tuple[float, float]]:
    """One endpoint drains, and serves again: (until in force, the agent's CPU), in seconds."""
    seen = []
    for number in range(CHANGES):
        endpoints = set(base.endpoints)
        if number % 2 == 0:
            endpoints.remove(endpoint(number))
            endpoints.add(endpoint(number, "draining"))
        wanted = msgspec.structs.replace(base, endpoints=frozenset(endpoints))
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        await server.update(wanted)
        seen.append((time.perf_counter() - begun_s, time.process_time() - begun_cpu_s))
        await asyncio.sleep(0.05)
    return seen


def changes_line(when: str, seen: list[tuple[float, float]]) -> str:
    in_force_ms = sorted(took * 1e3 for took, _ in seen)
    cpu_ms = statistics.median(cpu * 1e3 for _, cpu in seen)
    return (
        f"one endpoint of {SERVICES * TASKS_EACH} changes, {when}: in force after "
        f"{statistics.median(in_force_ms):.1f} ms (most {in_force_ms[-1]:.1f}), "
        f"{cpu_ms:.1f} ms of the agent's CPU"
    )


async def run(seconds: float, tasks: int) -> None:
    base = picture(tasks)
    with tempfile.TemporaryDirectory() as directory:
        server = NameServer(Path(directory), SystemClock(), random.Random(1), PORT)
        await server.start()
        begun_s = time.perf_counter()
        await server.update(base)
        took_s = time.perf_counter() - begun_s
        print(f"from nothing to {SERVICES * TASKS_EACH} tasks: {took_s:.2f} s")
        try:
            pid = int(Path(directory, LOCK).read_text())
            print(changes_line("idle", await change(server, base)))
            before_s, begun_s = cpu_s(pid), time.perf_counter()
            asking = await asyncio.create_subprocess_exec(
                *[sys.executable, __file__, "--ask", "--seconds", str(seconds)],
                *["--tasks", str(tasks)],
                stdout=subprocess.PIPE,
            )
            seen = await change(server, base)
            said, _ = await asking.communicate()
            used_s, elapsed_s = cpu_s(pid) - before_s, time.perf_counter() - begun_s
            found = json.loads(said)
            print(changes_line("under load", seen))
            answered = found["answers_per_s"] * seconds
            print(
                f"{found['answers_per_s']:,.0f} answers/s, p50 {found['p50_ms']:.2f} ms, "
                f"p99 {found['p99_ms']:.2f} ms, lost {found['lost']}; server: "
                f"{used_s / elapsed_s:.0%} of a core, {answered / used_s:,.0f} answers per second "
                f"of its CPU, {rss_mib(pid):.0f} MiB"
            )
        finally:
            await server.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--tasks", type=int, default=16, help="clients, each at its own address")
    parser.add_argument("--ask", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        ask(arguments.seconds, arguments.tasks)
    else:
        asyncio.run(run(arguments.seconds, arguments.tasks))


if __name__ == "__main__":
    main()
