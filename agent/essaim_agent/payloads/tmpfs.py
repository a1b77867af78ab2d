"""The file system in memory that the files of secrets and configs are on. Blocking, for a moment.

It is mounted once and outlives the agent, as the containers do which were given files of it. It
is in the node's own mount namespace: the engine must see it.
"""

import ctypes
import errno
import os
import re
from pathlib import Path
from typing import Final

from essaim_agent.executor import ExecutorError

SIZE_BYTES_MAX: Final = 512 * 1024 * 1024
"""Of all files of the node's tasks; only what is used takes memory."""
INODES_MAX: Final = 200_000

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MNT_DETACH = 2
_OPTIONS: Final = f"mode=0700,size={SIZE_BYTES_MAX},nr_inodes={INODES_MAX}"
_NO_SWAP: Final = "noswap"
"""Since Linux 6.4; earlier ones refuse the word."""

_libc = ctypes.CDLL(None, use_errno=True)


class MountPoint:
    """A directory that is, or shall be, such a file system."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._device: int | None = None
        """Of the mount, once it was seen to be one."""
        self.may_swap = False
        """The kernel knows no way to keep it out of the swap space."""

    def ensure(self) -> None:
        """Have it mounted. Raises ExecutorError: nothing may be written here then.

        What somebody has unmounted is mounted anew: the plain directory below would be on a disk.
        """
        if self._device is not None and _device_of(self.path) == self._device:
            return
        self._device = None
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ExecutorError(f"{self.path} cannot be made: {error.strerror}") from error
        if not is_mounted(self.path):
            self._mount()
        self.may_swap = _NO_SWAP not in _seen_at(self.path)
        self._device = _device_of(self.path)

    def _mount(self) -> None:
        failure = _mount_tmpfs(self.path, f"{_OPTIONS},{_NO_SWAP}")
        if failure == errno.EINVAL:
            failure = _mount_tmpfs(self.path, _OPTIONS)
        if failure:
            raise ExecutorError(f"no tmpfs can be mounted at {self.path}: {os.strerror(failure)}")

    def remove(self) -> None:
        """Unmount it and remove the directory; no error when it is not there."""
        while is_mounted(self.path):
            if _libc.umount2(os.fsencode(self.path), _MNT_DETACH) != 0:
                reason = os.strerror(ctypes.get_errno())
                raise ExecutorError(f"{self.path} cannot be unmounted: {reason}")
        self._device = None
        if self.path.is_dir():
            self.path.rmdir()


def is_mounted(path: Path) -> bool:
    """Whether the topmost thing at this path is a tmpfs that was mounted there."""
    return "tmpfs" in _seen_at(path)


def _seen_at(path: Path) -> tuple[str, ...]:
    return mounted_at(Path("/proc/self/mountinfo").read_text(), os.path.realpath(path))


def mounted_at(mountinfo: str, path: str) -> tuple[str, ...]:
    """What was mounted last at this very path: the type of the file system, then its options, by
    the lines of proc_pid_mountinfo(5). Empty when nothing was."""
    found: tuple[str, ...] = ()
    for line in mountinfo.splitlines():
        mount, _, system = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), mount.split(" ")[4])
        if point == path:
            kind, _, options = system.split(" ")[:3]
            found = (kind, *options.split(","))
    return found


def _mount_tmpfs(path: Path, options: str) -> int:
    """The error number; 0 when it is mounted."""
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    done = _libc.mount(
        b"essaim-secrets", os.fsencode(path), b"tmpfs", ctypes.c_ulong(flags), options.encode()
    )
    return 0 if done == 0 else ctypes.get_errno()


def _device_of(path: Path) -> int | None:
    try:
        return path.stat().st_dev
    except OSError:
        return None
