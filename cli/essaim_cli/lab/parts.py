"""Starting, probing and judging the four processes of a host."""

import os
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from essaim_cli.lab import config_files
from essaim_cli.lab.bus_files import write_bus_config
from essaim_cli.lab.errors import EngineImpossible, LabError, PartNotReady
from essaim_cli.lab.external import run_command
from essaim_cli.lab.probes import answers, http_request, introduces_itself
from essaim_cli.lab.processes import (
    ProcessIdentity,
    is_alive,
    read_pid_file,
    send_signal,
    start_process,
    state_of,
)
from essaim_cli.lab.topology import Host, PartName, Topology
from essaim_shared.clock import Clock, wait_until
from essaim_shared.sealing import new_data_key_text, write_private

READY_TIMEOUT_S = 30.0
READY_POLL_S = 0.05
KILL_TIMEOUT_S = 5.0

ENGINE_ATTEMPTS_MAX = 4
"""An engine that starts within a second of its predecessor's death can find the old containerd
half gone ("timeout waiting for containerd"); the next attempt finds it gone."""

LOG_TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True)
class PartState:
    """What `lab status` shows of one process."""

    word: str
    """running, stopped (by SIGSTOP), silent (runs, but does not answer), dead, or - (has none)."""
    pid: int | None


async def install_runtime(host: Host) -> Path:
    """Have the agent's package install the runtime shim for this host; returns its path."""
    host.agent_run_dir.mkdir(parents=True, exist_ok=True)
    output = await run_command(
        [
            sys.executable,
            "-m",
            "essaim_agent.shim",
            "install",
            "--run-dir",
            str(host.agent_run_dir),
        ]
    )
    return Path(output.strip())


async def engine_major() -> int:
    """The first number of the installed engine's version."""
    text = await run_command(["dockerd", "--version"])
    found = re.search(r"\bversion (\d+)\.", text)
    if found is None:
        raise EngineImpossible(f'no engines here: `dockerd --version` says "{text.strip()}"')
    return int(found[1])


def write_config(topology: Topology, host: Host, runtime: Path | None, major: int | None) -> None:
    """Write the configuration of every part of a host, and make the directories they expect."""
    host.run_dir.mkdir(parents=True, exist_ok=True)
    for directory in (host.data_dir / "agent", host.agent_run_dir):
        directory.mkdir(parents=True, exist_ok=True)
    texts: dict[PartName, str] = {"agent": config_files.agent_config(topology, host)}
    if major is not None:
        texts["engine"] = config_files.engine_config(host, runtime, major)
    if "master" in host.parts:
        (host.data_dir / "master").mkdir(parents=True, exist_ok=True)
        texts["master"] = config_files.master_config(topology, host)
        _write_seal_key(topology, host)
    if "bus" in host.parts:
        write_bus_config(topology, host)
    for part, text in texts.items():
        host.config_file(part).write_text(text)


def _write_seal_key(topology: Topology, host: Host) -> None:
    """The same for all masters of a lab, drawn once: what it sealed outlives the processes."""
    if not host.seal_key_file.exists():
        present = (other.seal_key_file for other in topology.masters)
        source = next((path for path in present if path.exists()), None)
        text = new_data_key_text() if source is None else source.read_text()
        write_private(host.seal_key_file, text.encode())


def command_of(host: Host, part: PartName) -> list[str]:
    config = str(host.config_file(part))
    if part == "bus":
        return ["nats-server", "--config", config]
    if part == "engine":
        return config_files.engine_command(host)
    return [sys.executable, "-m", f"essaim_{part}", "--config", config]


def is_running(host: Host, part: PartName) -> bool:
    identity = read_pid_file(host.pid_file(part))
    return identity is not None and state_of(identity) is not None


def start_part(host: Host, part: PartName) -> None:
    """Start a part unless it runs. One that SIGSTOP holds goes on."""
    identity = read_pid_file(host.pid_file(part))
    if identity is not None and state_of(identity) is not None:
        send_signal(identity, signal.SIGCONT)
        return
    if part == "engine":
        _forget_dead(host.engine_pid_file)
        _forget_dead(host.containerd_pid_file)
    start_process(
        command_of(host, part),
        lab=host.lab,
        namespace=host.namespace_path if host.executor == "docker" else None,
        log_file=host.log_file(part),
        pid_file=host.pid_file(part),
        environment={"ESSAIM_LAB_HOST": host.name, "PYTHONUNBUFFERED": "1"},
    )


def _forget_dead(pid_file: Path) -> None:
    """Remove a pid file whose process has ended.

    The engine takes a zombie for a living predecessor: it refuses to start beside its own, and
    waits 15 s for an answer of a containerd that is one.
    """
    try:
        pid = int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return
    if not is_alive(pid):
        pid_file.unlink(missing_ok=True)


async def probe(host: Host, part: PartName) -> bool:
    """Whether a part answers now."""
    if part == "bus":
        return await introduces_itself(host.address, host.bus_port)
    if part == "engine":
        return await answers(host.engine_socket, "/_ping")
    if part == "master":
        return await answers(host.master_socket, "/_ping")
    return await answers((host.address, host.metrics_port), "/healthz")


async def wait_ready(host: Host, part: PartName, clock: Clock) -> None:
    """Return once the part answers; PartNotReady when it ended or stayed silent."""
    deadline_s = clock.monotonic_s() + READY_TIMEOUT_S
    attempts = 1
    while not await probe(host, part):
        if not is_running(host, part):
            if part != "engine" or attempts == ENGINE_ATTEMPTS_MAX:
                raise PartNotReady(_complaint(host, part, "ended"))
            attempts += 1
            start_part(host, part)
        if clock.monotonic_s() > deadline_s:
            raise PartNotReady(_complaint(host, part, await unready(host, part)))
        await clock.sleep(READY_POLL_S)


async def unready(host: Host, part: PartName) -> str:
    """What is wrong with a part that runs. An agent says so itself: without a master it is well,
    and yet not ready."""
    if part == "agent":
        answer = await http_request((host.address, host.metrics_port), "/healthz")
        if answer is not None:
            reason = answer[1].decode(errors="replace").strip()
            return f"runs, but is not ready after {READY_TIMEOUT_S:g} s ({reason})"
    return f"is silent for {READY_TIMEOUT_S:g} s"


async def signal_part(host: Host, part: PartName, number: signal.Signals, clock: Clock) -> None:
    """Send a signal to one process of a host. After SIGKILL, wait until it is gone."""
    if part not in host.parts:
        raise LabError(f"{host.name} has no {part}: it has {', '.join(host.parts)}")
    identity = read_pid_file(host.pid_file(part))
    if identity is None or not send_signal(identity, number):
        raise LabError(
            f"the {part} of {host.name} does not run: `essaim lab start {host.name} {part}`"
        )
    if number == signal.SIGKILL:
        known = identity
        if not await wait_until(lambda: _is_gone(host, part, known), clock, KILL_TIMEOUT_S):
            raise LabError(f"process {known.pid} ({part} of {host.name}) outlives SIGKILL")


def _is_gone(host: Host, part: PartName, identity: ProcessIdentity) -> bool:
    """An engine is gone when its containerd is too: the kernel ends that one just after it."""
    if state_of(identity) is not None:
        return False
    if part != "engine":
        return True
    try:
        return not is_alive(int(host.containerd_pid_file.read_text()))
    except (FileNotFoundError, ValueError):
        return True


async def state_of_part(host: Host, part: PartName) -> PartState:
    if part not in host.parts:
        return PartState("-", None)
    identity = read_pid_file(host.pid_file(part))
    letter = state_of(identity) if identity is not None else None
    if identity is None or letter is None:
        return PartState("dead", None)
    if letter in "Tt":
        return PartState("stopped", identity.pid)
    return PartState("running" if await probe(host, part) else "silent", identity.pid)


def _complaint(host: Host, part: PartName, what: str) -> str:
    last = _last_line(host.log_file(part))
    said = f', its last words: "{last}"' if last else ""
    return f"the {part} of {host.name} {what}{said}; see {host.log_file(part)}"


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip()[:300] if lines else ""
