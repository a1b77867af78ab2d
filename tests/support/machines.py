"""Machines of a cluster as `essaim cluster init` and `join` make them, on addresses of loopback:
their daemons run as processes, with nothing but what those commands wrote."""

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from support.command_line import run_essaim
from support.master_processes import free_ports

from essaim_shared.clock import SystemClock

CLOCK = SystemClock()
WAIT_S = 40.0
COMMAND_TIMEOUT_S = 40.0
POLL_S = 0.1


class Machine:
    def __init__(self, root: Path, number: int, ports: list[int], lifetime_s: int) -> None:
        self.name = f"m{number}"
        self.address = f"127.0.1.{number}"
        self.root = root / self.name
        self.root.mkdir()
        self._http, self._raft, self._bus, self._route = ports
        self._lifetime_s = lifetime_s
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def http(self) -> str:
        return f"{self.address}:{self._http}"

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def socket(self) -> Path:
        return self.root / "run" / "master.sock"

    @property
    def master_identity(self) -> Path:
        return self.root / "lib" / "master" / "identity"

    @property
    def agent_identity(self) -> Path:
        return self.root / "lib-agent" / "identity"

    @property
    def options(self) -> tuple[str, ...]:
        [monitor] = free_ports(1)
        return (
            *("--advertise", self.address, "--hostname", self.name),
            *("--directory", str(self.etc), "--data", str(self.root / "lib")),
            *("--run", str(self.root / "run"), "--executor", "process"),
            *("--http-port", str(self._http), "--raft-port", str(self._raft)),
            *("--bus-port", str(self._bus), "--bus-route-port", str(self._route)),
            *("--bus-monitor-port", str(monitor)),
        )

    def start(self) -> None:
        """What the command said is to be started, as far as it wrote files for it."""
        bus = self.root / "lib" / "master" / "bus" / "bus.conf"
        if bus.exists():
            self._start("bus", "nats-server", "--config", str(bus))
        for part in ("master", "agent"):
            config = self.etc / f"{part}.toml"
            if config.exists():
                if part == "master":
                    self._settle(config)
                self._start(part, sys.executable, "-m", f"essaim_{part}", "--config", str(config))

    def _settle(self, config: Path) -> None:
        """What a test has otherwise than people: short lives, and no registry."""
        text = config.read_text()
        if "[images]" not in text:
            text += '\n[images]\nresolve = "never"\n'
            if self._lifetime_s:
                text += f"\n[authority]\ncertificate_lifetime_s = {self._lifetime_s}\n"
            config.write_text(text)

    def _start(self, part: str, *command: str) -> None:
        with (self.root / f"{part}.log").open("ab") as log:
            self.processes[part] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.root)

    def stop(self, *parts: str) -> None:
        for part in parts or tuple(self.processes):
            process = self.processes.pop(part)
            process.kill()
            process.wait()

    def log(self, part: str) -> str:
        path = self.root / f"{part}.log"
        return path.read_text(errors="replace") if path.exists() else ""


class Machines:
    """The first one founds the cluster."""

    def __init__(self, root: Path, lifetime_s: int = 0) -> None:
        self._root = root
        self._ports = free_ports(4)
        self._lifetime_s = lifetime_s
        self.all: list[Machine] = []

    @property
    def first(self) -> Machine:
        return self.all[0]

    def add(self) -> Machine:
        machine = Machine(self._root, len(self.all) + 1, self._ports, self._lifetime_s)
        self.all.append(machine)
        return machine

    def close(self) -> None:
        for machine in self.all:
            machine.stop()

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """The command line; it asks the first machine's master, by its socket."""
        return await run_essaim(
            f"unix://{self.first.socket}", *arguments, limit_s=COMMAND_TIMEOUT_S
        )

    async def ok(self, *arguments: str) -> str:
        code, out, err = await self.run(*arguments)
        assert code == 0, f"essaim {' '.join(arguments)}: exit {code}\n{out}{err}{self.logs()}"
        return out

    async def refused(self, *arguments: str) -> str:
        """The one line with which it failed."""
        code, out, err = await self.run(*arguments)
        assert code != 0, f"essaim {' '.join(arguments)} went well:\n{out}"
        return err.strip()

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self.ok(*arguments))

    async def ready_nodes(self) -> set[str]:
        code, out, _ = await self.run("node", "ls", "-o", "json")
        if code != 0:
            return set()
        rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return {row["Hostname"] for row in rows if row["Status"] == "Ready"}

    async def eventually(
        self, holds: Callable[[], Awaitable[bool]], what: str, wait_s: float = WAIT_S
    ) -> None:
        deadline_s = CLOCK.monotonic_s() + wait_s
        while not await holds():
            assert CLOCK.monotonic_s() < deadline_s, f"not in {wait_s} s: {what}\n{self.logs()}"
            await CLOCK.sleep(POLL_S)

    def logs(self) -> str:
        return "\n".join(
            f"--- {machine.name} {part}\n{machine.log(part)[-2500:]}"
            for machine in self.all
            for part in ("bus", "master", "agent")
        )
