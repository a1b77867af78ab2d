"""Starting processes that outlive the command, and telling them from strangers afterwards.

A pid file holds the number and the start time of a process: a number alone is used again by the
kernel, and a lab must never end a process that is not its own.
"""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "ESSAIM_LAB"
"""Every process of a lab has this variable with the lab's name; children inherit it."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, for as long as the machine runs."""

    pid: int
    start_ticks: int
    """Clock ticks since the boot (field 22 of /proc/PID/stat, proc(5))."""


def process_state(pid: int) -> tuple[str, int] | None:
    """(state letter, start ticks) of proc(5); None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name stands in parentheses and may itself hold spaces and parentheses.
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def is_alive(pid: int) -> bool:
    """Whether some process of this number runs. A zombie has ended, whoever has yet to bury it."""
    seen = process_state(pid)
    return seen is not None and seen[0] not in "ZX"


def state_of(identity: ProcessIdentity) -> str | None:
    """The state letter; None when this process has ended (a zombie has ended)."""
    seen = process_state(identity.pid)
    if seen is None or seen[1] != identity.start_ticks or seen[0] in "ZX":
        return None
    return seen[0]


def read_pid_file(path: Path) -> ProcessIdentity | None:
    """The process named by a pid file, running or not; None without a (readable) file."""
    try:
        pid, start_ticks = path.read_text().split()
        return ProcessIdentity(int(pid), int(start_ticks))
    except (FileNotFoundError, ValueError):
        return None


def start_process(
    command: Sequence[str],
    *,
    lab: str,
    namespace: Path | None,
    log_file: Path,
    pid_file: Path,
    environment: Mapping[str, str],
) -> ProcessIdentity:
    """Start a daemon: own session, working directory /, output appended to its log, nothing open
    of what whoever raises the lab has open (a lock would be held as long as the lab stands).

    `nsenter --net` and not `ip netns exec`: the latter mounts /sys anew and hides the cgroups.
    """
    enter = [f"--net={namespace}"] if namespace is not None else []
    argv = ["env", "-C", "/", *(["nsenter", *enter] if enter else []), *command]
    variables = {
        "PATH": _PATH,
        "HOME": str(Path.home()),
        "LC_ALL": "C.UTF-8",
        MARK: lab,
        **environment,
    }
    log_file.parent.mkdir(parents=True, exist_ok=True)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawnp(
        "env",
        argv,
        variables,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log_file), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_CLOSE, number) for number in _handed_down()),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGPIPE],
    )
    seen = process_state(pid)
    assert seen is not None, f"process {pid} is our child and cannot have been reaped"
    identity = ProcessIdentity(pid, seen[1])
    pid_file.write_text(f"{identity.pid} {identity.start_ticks}\n")
    return identity


def _handed_down() -> list[int]:
    """Descriptors that a child would get, beside the three."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        number = int(entry.name)
        try:
            if number > 2 and os.get_inheritable(number):
                found.append(number)
        except OSError:
            continue  # it was open for this list only
    return found


def send_signal(identity: ProcessIdentity, number: signal.Signals) -> bool:
    """Signal exactly this process; False when it has already ended."""
    if state_of(identity) is None:
        return False
    try:
        os.kill(identity.pid, number)
    except ProcessLookupError:
        return False
    return True


def all_processes() -> Iterator[int]:
    """Numbers of the processes of this machine, but for us and those that we descend from."""
    own = {os.getpid()}
    pid = os.getppid()
    while pid > 0 and pid not in own:
        own.add(pid)
        pid = _parent_of(pid)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in own:
            yield int(entry.name)


def _parent_of(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text[text.rindex(")") + 2 :].split()[1])
