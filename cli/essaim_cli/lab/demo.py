"""The first minute with Essaim: a small web service, and a page from each of its replicas.

What a user would type is shown and run as such; only the fetching is ours, since it goes from a
container on one host to a container on another.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from essaim_cli.lab.errors import LabError
from essaim_cli.lab.external import run_command
from essaim_cli.lab.images import WEB_IMAGE
from essaim_cli.lab.probes import http_request, json_of
from essaim_cli.lab.processes import MARK
from essaim_cli.lab.topology import Host, Topology
from essaim_shared.clock import Clock

SERVICE = "web"
REPLICAS = 3
FETCH_TIMEOUT_S = 10.0
FETCH_POLL_S = 0.1
FETCH_ONCE_S = "3"
"""Of one attempt; `wget -T` would crash a static busybox, so `timeout` ends it."""
WEB_PORT = 80
PUBLISHED_PORT = 8080
"""Answered by every host of the lab."""

_RUNNING_TASKS = f'/tasks?filters={{"service":["{SERVICE}"],"desired-state":["running"]}}'

CREATE_TIMEOUT = "60s"
"""A service that cannot converge ends the demonstration with the reason, not with a wait."""

_PROCESS_PAGE = "/GPL-3"
_PROCESS_COMMAND = (
    "sh",
    "-c",
    'exec busybox httpd -f -p "127.0.0.1:$PORT" -h /usr/share/common-licenses',
)
"""On loopback a replica is told its port. It serves texts that are on every Debian machine."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One running task of the service, as the masters report it."""

    task_id: str
    name: str
    host: str
    address: str
    """On the overlay; empty on loopback."""
    container_id: str


async def deploy(topology: Topology) -> None:
    """Create the service unless it is there, and show where its replicas run."""
    master = await _answering_master(topology)
    found = await http_request(master, f"/services/{SERVICE}")
    if found is None or found[0] == 404:
        image = ["process", *_PROCESS_COMMAND]
        replicas = ["--replicas", str(REPLICAS), "--timeout", CREATE_TIMEOUT]
        if topology.executor == "docker":
            image = [WEB_IMAGE]
            replicas += ["--publish", f"{PUBLISHED_PORT}:{WEB_PORT}"]
        await _show_and_run(master, ["service", "create", "--name", SERVICE, *replicas, *image])
    else:
        print(f"service {SERVICE} is there already", file=sys.stderr)
    await _show_and_run(master, ["service", "ps", SERVICE])


async def fetch_pages(topology: Topology, clock: Clock, say: Callable[[str], None]) -> None:
    """Fetch a page from each replica, from a container of the next one. LabError if one fails."""
    master = await _answering_master(topology)
    replicas = read_replicas(await json_of(master, _RUNNING_TASKS), await json_of(master, "/nodes"))
    if not replicas:
        raise LabError(f"no replica of {SERVICE} runs: see `essaim service ps {SERVICE}`")
    for replica, reader in zip(replicas, [*replicas[1:], replicas[0]], strict=True):
        page, said_by = await _page_of(topology, replica, reader, clock)
        say(f"{replica.name} on {replica.host} {said_by} answers: {page}")
    service = await json_of(master, f"/services/{SERVICE}")
    # A service of this name that somebody made otherwise has no such port.
    for port in service["Endpoint"].get("Ports") or () if service else ():
        for host in topology.hosts:
            page = await _published_page(host, port["PublishedPort"], clock)
            say(f"http://{host.address}:{port['PublishedPort']} on {host.name} answers: {page}")


async def _published_page(host: Host, port: int, clock: Clock) -> str:
    """What a browser outside of the cluster would see."""
    deadline_s = clock.monotonic_s() + FETCH_TIMEOUT_S
    while True:
        answer = await http_request((host.address, port), "/")
        if answer is not None and answer[0] == HTTPStatus.OK:
            return answer[1].decode(errors="replace").strip()
        if clock.monotonic_s() > deadline_s:
            raise LabError(f"port {port} of {host.name} serves no page: `essaim net doctor`")
        await clock.sleep(FETCH_POLL_S)


def read_replicas(tasks: Any, nodes: Any) -> list[Replica]:
    """The running replicas in order of their names, from Docker's task and node lists. Pure."""
    hosts = {node["ID"]: node["Description"]["Hostname"] for node in nodes or ()}
    replicas = []
    for task in tasks or ():
        if task["Status"]["State"] != "running":
            continue
        addresses = [
            address.partition("/")[0]
            for attachment in task.get("NetworksAttachments") or ()
            for address in attachment.get("Addresses") or ()
        ]
        container = task["Status"].get("ContainerStatus") or {}
        replicas.append(
            Replica(
                task["ID"],
                f"{SERVICE}.{task['Slot']}",
                hosts.get(task.get("NodeID"), "?"),
                addresses[0] if addresses else "",
                container.get("ContainerID") or "",
            )
        )
    return sorted(replicas, key=lambda replica: replica.name)


async def _page_of(
    topology: Topology, replica: Replica, reader: Replica, clock: Clock
) -> tuple[str, str]:
    """(what the replica serves, where it was asked), once it answers."""
    deadline_s = clock.monotonic_s() + FETCH_TIMEOUT_S
    while True:
        try:
            if topology.executor == "docker":
                page = await _fetch_over_overlay(topology.host(reader.host), replica, reader)
                return page, f"at {replica.address}, asked from {reader.name} on {reader.host},"
            port = _port_of(topology.host(replica.host), replica)
            page = await _fetch_over_loopback(port)
            return page, f"at 127.0.0.1:{port}"
        except LabError as failure:
            if clock.monotonic_s() > deadline_s:
                raise LabError(
                    f"{replica.name} on {replica.host} serves no page: {failure}"
                ) from failure
        await clock.sleep(FETCH_POLL_S)


async def _fetch_over_overlay(host: Host, replica: Replica, reader: Replica) -> str:
    # The port is written out: without one a static busybox looks it up by name, and crashes.
    url = f"http://{replica.address}:{WEB_PORT}/"
    output = await run_command(
        [
            "docker",
            f"--host=unix://{host.engine_socket}",
            "exec",
            reader.container_id,
            *("timeout", FETCH_ONCE_S, "wget", "-q", "-O", "-", url),
        ]
    )
    return output.strip()


async def _fetch_over_loopback(port: int) -> str:
    answer = await http_request(("127.0.0.1", port), _PROCESS_PAGE)
    if answer is None or answer[0] != 200:
        raise LabError(f"nobody serves a page at 127.0.0.1:{port}")
    return answer[1].decode(errors="replace").strip().splitlines()[0].strip()


def _port_of(host: Host, replica: Replica) -> int:
    """The PORT that the agent gave to a task's process: in its environment, and nowhere else."""
    try:
        pid = (host.agent_run_dir / "tasks" / replica.task_id / "pid").read_text().split()[0]
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (OSError, IndexError) as failure:
        raise LabError(f"its process is not to be found ({failure})") from failure
    for variable in variables:
        name, _, value = variable.partition(b"=")
        if name == b"PORT" and value.isdigit():
            return int(value)
    raise LabError(f"process {pid} was given no PORT")


async def _answering_master(topology: Topology) -> Path:
    for host in topology.masters:
        answer = await http_request(host.master_socket, "/_ping")
        if answer is not None and answer[0] == 200:
            return host.master_socket
    raise LabError(
        f"no master of lab {topology.name} answers: see `essaim lab status --name {topology.name}`"
    )


async def _show_and_run(master: Path, words: list[str]) -> None:
    """Print a command as a user would type it, and run it on our own output."""
    shown = " ".join(f"'{word}'" if " " in word else word for word in words)
    print(f"\n$ essaim {shown}", file=sys.stderr, flush=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "essaim_cli",
        *words,
        # Not part of the lab: `down` must not take the command for one of its processes.
        env={name: value for name, value in os.environ.items() if name != MARK}
        | {"ESSAIM_HOST": f"unix://{master}"},
    )
    code = await process.wait()
    if code != 0:
        raise LabError(f"`essaim {shown}` ended with exit code {code}: its reason stands above")


def next_steps(topology: Topology) -> str:
    """What to try after the first minute. Pure."""
    named = "" if topology.name == "lab" else f" --name {topology.name}"
    steps = [
        ("./essaim node ls", "the hosts"),
        (f"./essaim service scale {SERVICE}=12", "more replicas"),
        ("./essaim top tasks", "what they use"),
    ]
    if topology.executor == "docker":
        steps += [
            ("./essaim net doctor", "whether every host reaches the others, and what was mended"),
            (f"./essaim lab cut{named} h3", "pull a cable: its tasks move within seconds"),
            (f"./essaim lab heal{named} h3", "and plug it in again"),
            (f"./essaim lab sh{named} h1 -- docker ps", "the containers of one host"),
        ]
    else:
        steps.append((f"./essaim lab kill{named} h1 master", "end a master: the others go on"))
    steps += [
        (f"./essaim lab status{named}", "what runs on each host"),
        ("make down" if not named else f"./essaim lab down{named}", "remove every trace"),
    ]
    width = max(len(command) for command, _ in steps)
    lines = (f"  {command.ljust(width)}   {meaning}" for command, meaning in steps)
    return "Try next:\n" + "\n".join(lines)
