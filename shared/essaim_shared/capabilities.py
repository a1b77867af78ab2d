"""What a daemon gives up of root's powers when it starts: Linux' capabilities(7), for good.

A daemon calls `confine` before it makes a thread, since the kernel counts capabilities for each
thread. Its children, whatever they execute, never have more than it keeps. An ordinary user has
nothing to give up, and an old kernel may refuse: neither is an error.
"""

import ctypes
import logging
import os
import resource
from collections.abc import Callable, Collection
from enum import IntEnum
from pathlib import Path
from typing import Final

from essaim_shared.log import fields

_log = logging.getLogger(__name__)


class Capability(IntEnum):
    """Numbers of include/uapi/linux/capability.h; those that a daemon of ours keeps."""

    CHOWN = 0
    NET_BIND_SERVICE = 10
    NET_ADMIN = 12
    NET_RAW = 13
    SYS_ADMIN = 21


MASTER: Final[frozenset[Capability]] = frozenset()
"""Its files and sockets are its own, and so are the processes that it signals."""
NAME_SERVER: Final[frozenset[Capability]] = frozenset()
"""The agent hands it its sockets."""
AGENT: Final = frozenset(
    {
        Capability.CHOWN,  # files of secrets belong to whom their task says
        Capability.NET_ADMIN,  # devices, addresses, routes, forwarding entries, nftables
        Capability.NET_BIND_SERVICE,  # to try whether somebody has a port that is to be published
        Capability.NET_RAW,  # echo requests to other nodes
        Capability.SYS_ADMIN,  # network namespaces: to make, mount and enter them; the tmpfs
    }
)
"""Of an agent with a container engine, which does all else for it. Plain processes are children of
their agent, and would have no more than it: such an agent keeps everything."""

LAST_CAPABILITY: Final = Path("/proc/sys/kernel/cap_last_cap")

_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522
_WORDS = 2
"""Of 32 bits, in version 3."""


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Words(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


_libc = ctypes.CDLL(None, use_errno=True)


def confine(kept: Collection[Capability]) -> bool:
    """Keep only these, gain none any more, and leave no memory on a disk when this process dies.

    False when something was not given up; the log says what.
    """
    refusals = [
        *_refused("core dumps", _forbid_core_dumps),
        *_refused("bounding set", lambda: _drop_from_bounding_set(kept)),
        *_refused("ambient set", lambda: _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)),
        *_refused("own sets", lambda: _keep_of_own(kept)),
        *_refused("new privileges", lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1)),
    ]
    if refusals:
        _log.warning("keeps more privileges than it needs %s", fields(why="; ".join(refusals)))
    return not refusals


def _refused(what: str, step: Callable[[], object]) -> list[str]:
    try:
        step()
    except OSError as error:
        return [f"{what}: {error.strerror}"]
    return []


def _forbid_core_dumps() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _drop_from_bounding_set(kept: Collection[Capability]) -> None:
    """It takes CAP_SETPCAP. Who has no capability could gain none, and where the service manager
    has dropped them before there is nothing to drop."""
    if not any(word.permitted for word in _own_words()):
        return
    last = int(LAST_CAPABILITY.read_text())
    for number in range(last + 1):
        if number not in kept and _prctl(_PR_CAPBSET_READ, number):
            _prctl(_PR_CAPBSET_DROP, number)


def _keep_of_own(kept: Collection[Capability]) -> None:
    words = _own_words()
    for index, word in enumerate(words):
        mask = sum(1 << (number % 32) for number in kept if number // 32 == index)
        word.permitted &= mask
        word.effective = word.permitted
        word.inheritable = 0
    if _libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), words) != 0:
        raise _os_error()


def _own_words() -> "ctypes.Array[_Words]":
    words = (_Words * _WORDS)()
    if _libc.capget(ctypes.byref(_Header(_VERSION_3, 0)), words) != 0:
        raise _os_error()
    return words


def _prctl(option: int, argument: int) -> int:
    zero = ctypes.c_ulong(0)
    answer: int = _libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero)
    if answer < 0:
        raise _os_error()
    return answer


def _os_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
