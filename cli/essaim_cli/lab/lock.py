"""One change of the machine's labs at a time."""

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from essaim_cli.lab.errors import LabError
from essaim_shared.clock import Clock

LOCK_TIMEOUT_S = 120.0
LOCK_POLL_S = 0.1


@asynccontextmanager
async def labs_locked(run_root: Path, clock: Clock) -> AsyncIterator[None]:
    """Hold the lock on `run_root`; the kernel lets go of it when the holder is killed.

    The directory itself is locked, and removed with the last lab: whoever waited for a directory
    that is gone by then takes the new one.
    """
    deadline_s = clock.monotonic_s() + LOCK_TIMEOUT_S
    while True:
        run_root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(run_root, os.O_RDONLY | os.O_DIRECTORY)
        if os.fstat(descriptor).st_uid != os.geteuid():
            os.close(descriptor)
            raise LabError(f"{run_root} belongs to another user: set XDG_RUNTIME_DIR to your own")
        if _try_lock(descriptor) and _is_still(descriptor, run_root):
            break
        os.close(descriptor)
        if clock.monotonic_s() > deadline_s:
            raise LabError(
                f"another `essaim lab` has been at work for {LOCK_TIMEOUT_S:g} s: "
                f"see who holds it with `fuser {run_root}`"
            )
        await clock.sleep(LOCK_POLL_S)
    try:
        yield
    finally:
        _remove_if_empty(run_root)
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        return  # other labs are in it
