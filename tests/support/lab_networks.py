"""Networks of a lab as tests use them: words from inside of containers and of hosts."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from support.echo_service import CLIENT, COMMAND, CREATE_FLAGS
from support.lab_cluster import WEB, Cluster, Done

HOST_PYTHON = "/usr/bin/python3"
ANSWER_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Replica:
    """A running task, and where to find it."""

    task_id: str
    host: str
    container: str
    addresses: tuple[str, ...]
    """One for each of its networks."""

    @property
    def address(self) -> str:
        return self.addresses[0]


@dataclass(frozen=True, slots=True)
class Answer:
    """A line of the echo service."""

    by: str
    seen_from: str
    """The address that the question came from, as the task saw it."""


async def create_echo(cluster: Cluster, name: str, *flags: str, replicas: int = 3) -> list[Replica]:
    """A service that says who asked and who answers, once all of it runs."""
    await cluster.ok(
        "service", "create", "-d", "--name", name, "--replicas", str(replicas),
        *CREATE_FLAGS, *flags, WEB, *COMMAND,
    )  # fmt: skip
    await cluster.until_running(name, replicas)
    return await replicas_of(cluster, name)


async def create_web(cluster: Cluster, name: str, *flags: str, replicas: int = 1) -> list[Replica]:
    """The lab's small web server."""
    await cluster.ok(
        "service", "create", "-d", "--name", name, "--replicas", str(replicas), *flags, WEB
    )
    await cluster.until_running(name, replicas)
    return await replicas_of(cluster, name)


async def replicas_of(cluster: Cluster, service: str) -> list[Replica]:
    hosts = {
        node["ID"]: node["Description"]["Hostname"] for node in await cluster.api("/nodes") or ()
    }
    return [
        Replica(
            task["ID"],
            hosts[task["NodeID"]],
            task["Status"]["ContainerStatus"]["ContainerID"],
            tuple(
                address.partition("/")[0]
                for attachment in task.get("NetworksAttachments") or ()
                for address in attachment["Addresses"]
            ),
        )
        for task in sorted(await cluster.running(service), key=lambda task: task["Slot"])
    ]


async def inside(cluster: Cluster, replica: Replica, *command: str) -> Done:
    """Run a command in a replica's container."""
    return await cluster.docker(replica.host, "exec", replica.container, *command)


async def on_host(cluster: Cluster, host: str, *command: str) -> Done:
    """Run a command of the machine in a host's network."""
    namespace = cluster.topology.host(host).namespace_path
    return await cluster.run("nsenter", f"--net={namespace}", *command)


async def changed_on_host(cluster: Cluster, host: str, *command: str) -> None:
    """The same, where it must succeed."""
    done = await on_host(cluster, host, *command)
    assert done.code == 0, f"{command} on {host}: {done.stdout}{done.stderr}"


def answers_in(done: Done) -> list[Answer]:
    assert done.code == 0, done.stderr
    assert "failed" not in done.stdout, done.stdout
    return [Answer(*line.split()) for line in done.lines]


async def asked_from_machine(
    cluster: Cluster, host: str, port: int, count: int = 1, kind: str = "STREAM"
) -> list[Answer]:
    """Ask a host's published port from outside of the cluster."""
    address = cluster.topology.host(host).address
    return answers_in(await ask(cluster, [HOST_PYTHON], address, port, count, kind))


async def is_port_answering(cluster: Cluster, host: str, port: int) -> bool:
    """Whether a host's published port leads to a task now."""
    done = await ask(cluster, [HOST_PYTHON], cluster.topology.host(host).address, port, 1, "STREAM")
    return done.code == 0 and "failed" not in done.stdout


async def asked_on_host(
    cluster: Cluster, host: str, address: str, port: int, count: int = 1, kind: str = "STREAM"
) -> list[Answer]:
    namespace = cluster.topology.host(host).namespace_path
    prefix = ["nsenter", f"--net={namespace}", HOST_PYTHON]
    return answers_in(await ask(cluster, prefix, address, port, count, kind))


async def asked_from_replica(
    cluster: Cluster, replica: Replica, name: str, port: int, count: int = 1, kind: str = "STREAM"
) -> list[Answer]:
    """Ask by name from a container of the echo service."""
    done = await inside(
        cluster, replica, HOST_PYTHON, "-I", "-c", CLIENT, kind, name, str(port), str(count)
    )
    return answers_in(done)


async def ask(
    cluster: Cluster, prefix: list[str], address: str, port: int, count: int, kind: str
) -> Done:
    return await cluster.run(*prefix, "-I", "-c", CLIENT, kind, address, str(port), str(count))


def spread(answers: list[Answer]) -> Counter[str]:
    return Counter(answer.by for answer in answers)


async def resolved(cluster: Cluster, replica: Replica, name: str) -> list[str]:
    """The addresses that a container gets for a name; none when it is told there is no such."""
    done = await inside(cluster, replica, "nslookup", "-type=a", name)
    lines = done.stdout.split("\n\n", 1)[-1].splitlines()
    return sorted(line.split(":", 1)[1].strip() for line in lines if line.startswith("Address:"))


async def is_reachable(cluster: Cluster, replica: Replica, address: str, port: int) -> bool:
    """Whether a TCP connection from the container comes about."""
    done = await inside(cluster, replica, "nc", "-w", "2", address, str(port), "-e", "true")
    return done.code == 0


async def is_answering_ping(cluster: Cluster, replica: Replica, address: str) -> bool:
    done = await inside(cluster, replica, "ping", "-c", "1", "-W", "1", address)
    return done.code == 0


async def remove_networks(cluster: Cluster, *names: str) -> None:
    """Remove them as soon as their last task has left."""

    async def gone() -> bool:
        await cluster.essaim("network", "rm", *names)
        listed = (await cluster.ok("network", "ls", "--format", "{{.Name}}")).lines
        return not set(names) & set(listed)

    await cluster.until(gone, f"networks {names} are removed")


async def doctor(cluster: Cluster, *arguments: str, at: str = "h1") -> dict[str, Any]:
    """What `essaim net doctor` finds now; it fails unless all is well."""
    done = await cluster.essaim("net", "doctor", "--fresh", "-o", "json", *arguments, at=at)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.code == 0) == found["Healthy"], done
    return found


async def until_well(cluster: Cluster, at: str = "h1") -> dict[str, Any]:
    """The answer once all is well; differences are told for some seconds after their repair."""
    last: dict[str, Any] = {}

    async def is_well() -> bool:
        nonlocal last
        last = await doctor(cluster, at=at)
        return bool(last["Healthy"])

    await cluster.until(is_well, "the networks are as they should be")
    return last
