"""Finding and removing everything that belongs to a lab, by what is on the machine.

`down` must work after a crash, a killed `up`, a lost state file. So nothing here reads a record:
processes are known by their mark, their network namespace, their cgroup or where their output
goes; the rest by names. Order matters, and each step makes the next one possible:

    processes → mounts → task namespaces → host namespaces, cable → cgroups → directories

Task namespaces come before those of the hosts: which host a task belongs to is seen from the
host's end of the task's veth pair, which goes with the host's namespace.
"""

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from essaim_cli.lab.errors import LabError
from essaim_cli.lab.external import run_command
from essaim_cli.lab.network import NAMESPACES
from essaim_cli.lab.processes import MARK, all_processes, is_alive
from essaim_cli.lab.state import Roots
from essaim_cli.lab.topology import ExecutorName, plan_lab
from essaim_shared.addressing import device_name
from essaim_shared.clock import Clock, wait_until

KILL_ROUNDS_MAX = 20
"""Processes start others while they are being ended; each round looks again."""
KILL_ROUND_S = 0.5

CGROUP_ROUNDS_MAX = 50
"""A cgroup refuses to go until the kernel has buried the last process in it."""
CGROUP_ROUND_S = 0.02

TASK_NAMESPACE_PREFIX = "es-t"
"""The agents name a task's namespace by device_name() from this and the task's id."""
_PORT_ALIAS = re.compile(r"essaim task (\S+) network ")
"""What the agents write beside the host's end of a task's cable."""

_SHARED_DIRECTORIES = (
    "/run/docker/plugins",
    "/run/docker",
    "/run/containerd/s",
    "/run/containerd",
)
"""Engines make these wherever their own directories are. They go when no engine is left."""

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_SHIM_SOCKETS = "/run/containerd/s/"


@dataclass(frozen=True, slots=True)
class Places:
    """Where traces of one lab can be."""

    name: str
    run_dir: Path
    data_dir: Path
    machine_link: str

    def owns_namespace(self, name: str) -> bool:
        return re.fullmatch(rf"essaim-{self.name}-(h\d+|switch)", name) is not None

    def owns_cgroup(self, name: str) -> bool:
        return re.fullmatch(rf"essaim-{self.name}-h\d+", name) is not None

    def owns_path(self, path: str) -> bool:
        return any(
            path == str(top) or path.startswith(f"{top}/") for top in (self.run_dir, self.data_dir)
        )


def places_of(name: str, where: Roots) -> Places:
    executor: ExecutorName = "docker"
    lab = plan_lab(
        name,
        host_count=1,
        master_count=1,
        executor=executor,
        subnet_number=0,
        run_root=where.run,
        data_root=where.data,
    )
    return Places(name, lab.run_dir, lab.data_dir, lab.machine_link)


def find_processes(places: Places) -> dict[int, str]:
    """Processes of the lab with the reason why each is thought to be one."""
    inodes = _namespace_inodes(places)
    mark = f"{MARK}={places.name}".encode()
    cgroup = re.compile(rf"/essaim-{places.name}-h\d+(/|$)", re.MULTILINE)
    found: dict[int, str] = {}
    for pid in all_processes():
        process = Path(f"/proc/{pid}")
        try:
            if not is_alive(pid):
                continue
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found[pid] = "mark"
            elif (process / "ns/net").stat().st_ino in inodes:
                found[pid] = "namespace"
            elif cgroup.search((process / "cgroup").read_text()):
                found[pid] = "cgroup"
            elif any(places.owns_path(str((process / f"fd/{fd}").readlink())) for fd in (1, 2)):
                found[pid] = "output"
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended while we looked, or belongs to another user and so not to us
    return found


def find_namespaces(places: Places) -> list[str]:
    if not NAMESPACES.is_dir():
        return []
    return sorted(entry.name for entry in NAMESPACES.iterdir() if places.owns_namespace(entry.name))


def find_mounts(places: Places) -> list[str]:
    """Mount points inside the lab's directories, the deepest first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[4])
        if places.owns_path(point):
            points.append(point)
    return sorted(points, key=len, reverse=True)


def find_cgroups(places: Places) -> list[Path]:
    """The lab's top cgroups, in every hierarchy of version 1 and in version 2."""
    tops = [_CGROUP_ROOT, *(path for path in _children(_CGROUP_ROOT) if path.is_dir())]
    return [child for top in tops for child in _children(top) if places.owns_cgroup(child.name)]


def has_traces(places: Places) -> bool:
    """Whether anything of the lab is on the machine. Cheap tests first."""
    return (
        places.run_dir.exists()
        or places.data_dir.exists()
        or bool(find_namespaces(places))
        or Path("/sys/class/net", places.machine_link).exists()
        or bool(find_cgroups(places))
        or bool(find_processes(places))
    )


async def remove_traces(places: Places, clock: Clock) -> None:
    """Take the lab off the machine. LabError names what would not go; repeating it is safe."""
    await end_processes(places, clock)
    if points := find_mounts(places):
        await run_command(["umount", "--lazy", *points])
    hosts = find_namespaces(places)
    for name in await _task_namespaces(hosts):
        await run_command(["ip", "netns", "delete", name])
    if hosts:
        await run_command(
            ["ip", "-batch", "-"],
            input_text="".join(f"netns delete {name}\n" for name in hosts),
        )
    if Path("/sys/class/net", places.machine_link).exists():
        await _delete_link(places.machine_link)
    await _remove_cgroups(places, clock)
    for directory in (places.data_dir, places.run_dir):
        if find_mounts(places):
            raise LabError(f"{directory} still has file systems mounted in it: see `mount`")
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=False, onerror=_gone)
    remove_shared_directories()


def remove_shared_directories() -> None:
    """Remove the empty directories that engines leave; nothing while any engine runs here."""
    for pid in all_processes():
        try:
            name = Path(f"/proc/{pid}/comm").read_text()
        except OSError:
            continue  # it ended while we looked
        if name.startswith(("dockerd", "containerd")) and is_alive(pid):
            return
    for path in _SHARED_DIRECTORIES:
        _remove_directory(path)


async def end_processes(places: Places, clock: Clock) -> None:
    """SIGKILL, again and again until none is left: containers restart what is ended politely."""
    for _ in range(KILL_ROUNDS_MAX):
        found = find_processes(places)
        if not found:
            return
        sockets = _shim_sockets(found)
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        await wait_until(_all_ended(found), clock, KILL_ROUND_S)
        for path in sockets:
            Path(path).unlink(missing_ok=True)
    left = ", ".join(f"{pid} ({why})" for pid, why in find_processes(places).items())
    if left:
        raise LabError(f"processes of lab {places.name} do not end: {left}")


def _all_ended(pids: Iterable[int]) -> Callable[[], bool]:
    def check() -> bool:
        return not any(is_alive(pid) for pid in pids)

    return check


def _namespace_inodes(places: Places) -> frozenset[int]:
    return frozenset((NAMESPACES / name).stat().st_ino for name in find_namespaces(places))


def _shim_sockets(pids: Iterable[int]) -> set[str]:
    """Socket files that containerd's shims leave in a directory shared by all engines."""
    found: set[str] = set()
    for pid in pids:
        try:
            if not Path(f"/proc/{pid}/comm").read_text().startswith("containerd-shim"):
                continue
            held = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
            for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines():
                fields = line.split()
                if len(fields) == 8 and f"socket:[{fields[6]}]" in held:
                    found.add(fields[7])
        except OSError:
            continue
    return {path for path in found if path.startswith(_SHIM_SOCKETS)}


async def _task_namespaces(hosts: Iterable[str]) -> list[str]:
    """Namespaces of tasks on these hosts: each host's end of a task's cable names its task."""
    wanted: set[str] = set()
    for host in hosts:
        text = await run_command(["ip", "-n", host, "-json", "link", "show", "type", "veth"])
        for link in json.loads(text or "[]"):
            if (found := _PORT_ALIAS.match(link.get("ifalias", ""))) is not None:
                wanted.add(device_name(TASK_NAMESPACE_PREFIX, found[1]))
    return sorted(entry.name for entry in _children(NAMESPACES) if entry.name in wanted)


async def _delete_link(name: str) -> None:
    """The kernel removes the cable itself, a moment after the switch's namespace: both are fine."""
    try:
        await run_command(["ip", "link", "delete", name])
    except LabError:
        if Path("/sys/class/net", name).exists():
            raise


async def _remove_cgroups(places: Places, clock: Clock) -> None:
    for _ in range(CGROUP_ROUNDS_MAX):
        for top in find_cgroups(places):
            for directory, _names, _files in os.walk(top, topdown=False):
                _remove_directory(directory)
        if not find_cgroups(places):
            return
        await clock.sleep(CGROUP_ROUND_S)
    left = ", ".join(str(path) for path in find_cgroups(places))
    raise LabError(f"cgroups of lab {places.name} do not go: {left}")


def _remove_directory(path: str) -> None:
    try:
        os.rmdir(path)  # noqa: PTH106 (os.walk gives strings, and a cgroup is no ordinary path)
    except OSError:
        return  # busy for another moment, or in use by others; the caller looks again


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _gone(_function: object, path: str, failure: tuple[type, BaseException, object]) -> None:
    """What vanished under our hands is as good as removed."""
    if not isinstance(failure[1], FileNotFoundError):
        raise LabError(f"cannot remove {path}: {failure[1]}")
