"""Masters as real processes on loopback: no agents, no lab, and no bus unless one is given."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.command_line import run_essaim

from essaim_shared.clock import SystemClock, wait_until

WAIT_S = 30.0
COMMAND_TIMEOUT_S = 30.0
CLOCK = SystemClock()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    taken = [socket.socket() for _ in range(count)]
    for one in taken:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


class MasterProcess:
    def __init__(self, directory: Path, member_id: str) -> None:
        self.id = member_id
        self.directory = directory / member_id
        self.directory.mkdir()
        self.raft, self.http = (f"127.0.0.1:{port}" for port in free_ports(2))
        self.config = self.directory / "master.toml"
        self.process: subprocess.Popen[bytes] | None = None
        self.code_path: Path | None = None
        """Where another build of the packages lies; None for this one."""

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    def start(self) -> None:
        environment = dict(os.environ)
        if self.code_path is not None:
            packages = ("master", "shared", "agent", "cli")
            environment["PYTHONPATH"] = os.pathsep.join(str(self.code_path / p) for p in packages)
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "essaim_master", "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.directory,
            )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(WAIT_S)
        self.process = None
        return status

    async def ended(self) -> int:
        """Wait for it to end by itself; its exit status."""
        process = self.process
        assert process is not None
        assert await wait_until(lambda: process.poll() is not None, CLOCK, WAIT_S), self.log
        self.process = None
        return process.returncode


class MasterProcesses:
    """A cluster of them."""

    def __init__(self, directory: Path, first: Sequence[str], **settings: Any) -> None:
        self._directory = directory
        self._settings = settings
        self.masters = {member_id: MasterProcess(directory, member_id) for member_id in first}
        self._first = tuple(self.masters.values())
        for master in self._first:
            self._configure(master, join=False)

    def new(self, member_id: str) -> MasterProcess:
        """One that is to join."""
        master = self.masters[member_id] = MasterProcess(self._directory, member_id)
        self._configure(master, join=True)
        return master

    async def start(self) -> None:
        for master in self._first:
            master.start()
        await self.until_led()

        async def is_complete() -> bool:
            views = (await self.status()).values()
            return all(view is not None and view["ClusterVersion"] for view in views)

        await self.eventually(is_complete, "all masters have announced themselves")

    def close(self) -> None:
        for master in self.masters.values():
            if master.process is not None:
                master.process.kill()
                master.process.wait()
                master.process = None

    async def run(self, *arguments: str, at: str = "") -> tuple[int, str, str]:
        """The command line against one master, the first running one if none is named."""
        master = self.masters[at] if at else next(m for m in self.masters.values() if m.process)
        return await run_essaim(f"tcp://{master.http}", *arguments, limit_s=COMMAND_TIMEOUT_S)

    async def ok(self, *arguments: str, at: str = "") -> str:
        code, out, err = await self.run(*arguments, at=at)
        assert code == 0, f"essaim {' '.join(arguments)}: exit {code}\n{out}{err}{self.logs()}"
        return out

    async def status(self, at: str = "") -> dict[str, Any]:
        """What each master says of itself, by id; None for those that do not answer."""
        rows = json.loads(await self.ok("raft", "status", "-o", "json", at=at))
        return {row["ID"]: row["Raft"] for row in rows}

    async def until_led(self, at: str = "") -> str:
        """Wait for a leader that the state knows of; its id."""
        led: list[str] = []

        async def is_led() -> bool:
            code, out, _ = await self.run("cluster", "members", "ls", "-o", "json", at=at)
            led[:] = [row["ID"] for row in json.loads(out) if row["Leader"]] if code == 0 else []
            return bool(led)

        await self.eventually(is_led, "there is a leader")
        return led[0]

    async def eventually(self, holds: Callable[[], Any], what: str) -> None:
        deadline_s = CLOCK.monotonic_s() + WAIT_S
        while not await holds():
            assert CLOCK.monotonic_s() < deadline_s, f"not in {WAIT_S} s: {what}\n{self.logs()}"
            await CLOCK.sleep(0.05)

    def logs(self) -> str:
        return "\n".join(
            f"--- {name}\n{master.log[-4000:]}"
            for name, master in self.masters.items()
            if (master.directory / "log").exists()
        )

    def _configure(self, master: MasterProcess, join: bool) -> None:
        settings = {
            "cluster_id": "test",
            "member_id": master.id,
            "data_dir": str(master.data_dir),
            "socket": str(master.directory / "s"),
            "http_listen": master.http,
            "raft_listen": master.raft,
            "bus_servers": ["nats://127.0.0.1:9"],
            "join": join,
            **self._settings,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        for member in self._first:
            lines += ["[[members]]", f'id = "{member.id}"']
            lines += [f'raft = "{member.raft}"', f'http = "{member.http}"']
        master.config.write_text("\n".join(lines) + "\n")
