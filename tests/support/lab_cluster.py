"""A raised lab as tests use it: commands, engines and masters, and waiting for conditions."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from essaim_cli.lab.driver import Lab
from essaim_cli.lab.probes import json_of
from essaim_cli.lab.state import roots
from essaim_cli.lab.topology import Host, Topology
from essaim_shared.clock import SystemClock

WAIT_S = 30.0
POLL_S = 0.05
COMMAND_TIMEOUT_S = 60.0
HOSTS = 3
WEB = "essaim/web:1"


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stdout.strip().splitlines()


def lab_command(name: str, verb: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "essaim_cli", "lab", verb, "--name", name, *arguments]


class Cluster:
    """A lab that is up, as a user at the machine sees it."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.clock = SystemClock()

    @property
    def hosts(self) -> tuple[Host, ...]:
        return self.topology.hosts

    async def run(self, *command: str, **variables: str) -> Done:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **variables},
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"{command} ran for {COMMAND_TIMEOUT_S} s") from None
        return Done(process.returncode or 0, out.decode(), err.decode())

    async def essaim(self, *arguments: str, at: str = "h1") -> Done:
        """Our CLI, at the master of one host; whatever its exit code."""
        socket = self.topology.host(at).master_socket
        return await self.run(
            sys.executable, "-m", "essaim_cli", *arguments, ESSAIM_HOST=f"unix://{socket}"
        )

    async def ok(self, *arguments: str, at: str = "h1") -> Done:
        done = await self.essaim(*arguments, at=at)
        assert done.code == 0, f"essaim {arguments}: {done.stdout}{done.stderr}"
        return done

    async def lab(self, verb: str, *arguments: str) -> Done:
        done = await self.run(*lab_command(self.topology.name, verb, *arguments))
        assert done.code == 0, f"lab {verb} {arguments}: {done.stderr}"
        return done

    async def docker(self, host: str, *arguments: str, client: str = "docker") -> Done:
        """The docker command at one host's own engine."""
        socket = self.topology.host(host).engine_socket
        return await self.run(client, *arguments, DOCKER_HOST=f"unix://{socket}")

    async def docker_at_master(self, *arguments: str, client: str, at: str = "h1") -> Done:
        """An unmodified docker client at a master of ours."""
        socket = self.topology.host(at).master_socket
        return await self.run(client, *arguments, DOCKER_HOST=f"unix://{socket}")

    async def containers(self, service: str = "") -> dict[str, str]:
        """Running containers over all engines: full id → host."""
        label = "com.docker.swarm.service.name" + (f"={service}" if service else "")
        path = "/containers/json?filters=" + quote(json.dumps({"label": [label]}))
        found: dict[str, str] = {}
        for host in self.hosts:
            running = await json_of(host.engine_socket, path)
            found |= dict.fromkeys((one["Id"] for one in running or ()), host.name)
        return found

    async def api(self, path: str, at: str = "h1") -> Any:
        return await json_of(self.topology.host(at).master_socket, path)

    async def leader(self) -> str:
        """The host of the leading master, as soon as there is one."""
        found = ""

        async def look() -> bool:
            nonlocal found
            for host in self.topology.masters:
                for node in await self.api("/nodes", host.name) or ():
                    if (node.get("ManagerStatus") or {}).get("Leader"):
                        found = node["Description"]["Hostname"]
                        return True
            return False

        await self.until(look, "some master leads")
        return found

    async def running(self, service: str, at: str = "h1") -> list[dict[str, Any]]:
        """The tasks of a service that run and shall run."""
        tasks = await self.api(
            f'/tasks?filters={{"service":["{service}"],"desired-state":["running"]}}', at
        )
        return [task for task in tasks or () if task["Status"]["State"] == "running"]

    async def until(
        self, condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = WAIT_S
    ) -> float:
        """Wait for a condition; returns how long it took, in seconds."""
        start_s = self.clock.monotonic_s()
        while not await condition():
            if self.clock.monotonic_s() - start_s > timeout_s:
                status = await self.run(*lab_command(self.topology.name, "status"))
                raise AssertionError(f"not within {timeout_s:g} s: {what}\n{status.stdout}")
            await self.clock.sleep(POLL_S)
        return self.clock.monotonic_s() - start_s

    async def until_running(self, service: str, count: int, at: str = "h1") -> float:
        async def enough() -> bool:
            return len(await self.running(service, at)) == count

        return await self.until(enough, f"{count} tasks of {service} run")

    async def reset(self) -> None:
        """Undo whatever a test did. This runs after each of them, so it asks the API itself and
        calls no command where nothing is to be done."""
        if not await self._is_whole():
            await self.lab("heal", *(host.name for host in self.hosts))
            await self.lab("up", "--hosts", str(len(self.hosts)))
        services = await self.api("/services") or ()
        if services:
            await self.ok("service", "rm", *(service["ID"] for service in services))
        for node in await self.api("/nodes"):
            changes = [word for label in node["Spec"]["Labels"] for word in ("--label-rm", label)]
            if node["Spec"]["Availability"] != "active":
                changes += ["--availability", "active"]
            if changes:
                await self.ok("node", "update", *changes, node["ID"])

        async def empty() -> bool:
            return not await self.containers()

        await self.until(empty, "no container is left")

    async def _is_whole(self) -> bool:
        """Whether every cable is plugged in, every process runs, and every node is ready."""
        lab = Lab(roots(), self.clock, lambda line: None)
        return all(
            not one.is_cut
            and one.node_state == "ready"
            and all(part.word in ("running", "-") for part in one.parts.values())
            for one in await lab.status(self.topology.name)
        )


def address_of(task: dict[str, Any]) -> str:
    return str(task["NetworksAttachments"][0]["Addresses"][0]).partition("/")[0]


def addresses(tasks: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {task["ID"]: address_of(task) for task in tasks}


def docker_clients() -> list[str]:
    """Every docker client of this machine: Debian's, and a newer one if there is one."""
    found = [path for path in ("/usr/bin/docker", "/usr/local/bin/docker") if Path(path).exists()]
    return found or [shutil.which("docker") or "docker"]
