"""Runs scripts of nftables, each in one transaction: libnftables in this process. Blocking.

`nft` itself is this library with a command line. A change costs 2 ms here and 6 to 8 ms of CPU,
19 ms of time as a process of its own, most of it for starting. The context keeps what it knows of
the kernel's tables and looks again when the kernel's generation moved.
"""

import ctypes
import socket
import struct
import threading

from essaim_agent.network import NetworkError
from essaim_agent.overlay import rtnetlink as rt
from essaim_agent.overlay.channel import Channel
from essaim_agent.overlay.nft_table import FAMILY

LIBRARY = "libnftables.so.1"
ERROR_CHARS_MAX = 300

NETLINK_NETFILTER = 12

_OUTPUT_STATELESS = 1 << 2
"""Without counters (`nft -s`)."""
_NFNL_SUBSYS_NFTABLES = 10
_NFT_MSG_GETGEN = 16
_NFTA_GEN_ID = 1
_NFGENMSG = struct.Struct("=BBH")
_GENERATION_MAX = (1 << 32) - 1

_one_at_a_time = threading.Lock()
"""The library asks libc for the names of protocols, which must not be done on two threads at once
(getprotobyname(3)); several nodes in one process, as tests have them, are on several threads."""


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NetworkError(f"{LIBRARY} is not installed (package nftables)") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).restype = ctypes.c_char_p
    for name in (
        "nft_ctx_buffer_output",
        "nft_ctx_buffer_error",
        "nft_ctx_get_output_buffer",
        "nft_ctx_get_error_buffer",
        "nft_ctx_free",
    ):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    return library


class Nftables:
    """Of the network namespace of the thread that makes this object, and for that thread."""

    def __init__(self) -> None:
        self._library = _library()
        self._channel = Channel(NETLINK_NETFILTER)
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            self._channel.close()
            raise NetworkError(f"{LIBRARY} cannot be used: no netlink socket, or no memory")
        self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_STATELESS)
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._seen = self.generation()
        self._is_disturbed = False

    def close(self) -> None:
        self._channel.close()
        self._library.nft_ctx_free(self._context)

    def run(self, script: str) -> None:
        """All of it or nothing. Raises NetworkError."""
        if self.generation() != self._seen:
            self._is_disturbed = True
        self._execute(script)
        now = self.generation()
        if now != next_generation(self._seen):
            self._is_disturbed = True
        self._seen = now

    def listing(self, table: str) -> str:
        """A table as nft prints it, without counters; empty when there is none."""
        name = f"{FAMILY} {table}"
        # The whole ruleset's names are cheap, and the absence of one is no error then.
        if f"table {name}" not in self._execute("list tables").splitlines():
            return ""
        return self._execute(f"list table {name}")

    def generation(self) -> int:
        """Moves with every change of any table, by anybody."""
        request = rt.message(
            _NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_GETGEN, 0, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)
        )
        found = rt.attributes(self._channel.get(request), _NFGENMSG.size)
        return int.from_bytes(found[_NFTA_GEN_ID], "big")

    @property
    def is_disturbed(self) -> bool:
        """Somebody else changed something since the last `settle`, or the start."""
        return self._is_disturbed or self.generation() != self._seen

    def own(self) -> None:
        """One change since the last of ours was ours too, made by another program."""
        now = self.generation()
        if now == next_generation(self._seen):
            self._seen = now

    def settle(self, generation: int) -> None:
        """The tables were looked at in this generation, and are right."""
        self._seen = generation
        self._is_disturbed = False

    def _execute(self, script: str) -> str:
        with _one_at_a_time:
            failed = self._library.nft_run_cmd_from_buffer(self._context, script.encode())
            output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
            complaint: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            words = " ".join(complaint.decode(errors="replace").split())[:ERROR_CHARS_MAX]
            raise NetworkError(f"nft: {words}")
        return output.decode(errors="replace")


def next_generation(generation: int) -> int:
    """After one change; 0 is left out (nf_tables_api.c, nf_tables_commit)."""
    return generation + 1 if generation < _GENERATION_MAX else 1
