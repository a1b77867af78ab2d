"""Asks peers through each overlay: two echoes to each, a small one and one of the full MTU.

A raw socket is open only during a round, so that echoes of others cost nothing in between. It is
made in the node's network namespace, wherever the event loop is. The kernel says when an answer
came: the loop's own lateness is no latency.
"""

import asyncio
import contextlib
import errno
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from essaim_agent.network import NetworkError
from essaim_agent.network_health.packets import (
    IP_HEADER_BYTES,
    SMALL_BYTES,
    TOKEN_BYTES,
    echo_request,
    read_reply,
)
from essaim_agent.network_health.rounds import Answer, Peer
from essaim_shared.clock import Clock, pause

ANSWER_TIMEOUT_S: Final = 1.0
REPLIES_PER_TURN_MAX: Final = 64
PACKET_BYTES_MAX: Final = 65_535

# linux/icmp.h, linux/in.h, asm-generic/socket.h
_SOL_RAW, _ICMP_FILTER, _ONLY_ECHO_REPLIES = 255, 1, struct.pack("=I", ~1 & 0xFFFFFFFF)
_IP_PKTINFO, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 8, 10, 3
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@ll")
_LOST = frozenset(
    (
        *(errno.EMSGSIZE, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.EINVAL),
        *(errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.ENOBUFS, errno.EAGAIN, errno.ENODEV),
        *(errno.ECONNREFUSED, errno.ENOENT, errno.ESRCH),
    )
)
"""A packet that cannot even be sent will not be answered."""


def open_echo_socket() -> socket.socket:
    """Hears echo replies only, and sends with DF whatever the kernel believes of the path.
    Raises NetworkError."""
    try:
        made = socket.socket(
            socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP
        )
        made.setsockopt(_SOL_RAW, _ICMP_FILTER, _ONLY_ECHO_REPLIES)
        made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError as error:
        raise NetworkError(f"raw socket for probes: {error.strerror}") from error
    return made


class Prober:
    def __init__(
        self,
        inside: Callable[[Callable[[], socket.socket]], Awaitable[socket.socket]],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`inside` does its work in the node's network namespace."""
        self._inside = inside
        self._clock = clock
        self._rng = rng

    async def ask(self, peers: Sequence[Peer]) -> list[Answer]:
        """One answer for each; returns when all came, or after a second. Raises NetworkError."""
        if not peers:
            return []
        with contextlib.closing(await self._inside(open_echo_socket)) as opened:
            return await _Round(opened, peers, self._clock, self._rng).run()


class _Round:
    """Sequence 2 i is the small packet to the i-th peer, 2 i + 1 the full one."""

    def __init__(
        self, opened: socket.socket, peers: Sequence[Peer], clock: Clock, rng: random.Random
    ) -> None:
        self._socket = opened
        self._peers = peers
        self._clock = clock
        self._identifier = rng.randrange(1 << 16)
        self._token = rng.randbytes(TOKEN_BYTES)
        self._sent_ns: dict[int, int] = {}
        self._came_ns: dict[int, int] = {}
        self._is_complete = asyncio.Event()

    async def run(self) -> list[Answer]:
        loop = asyncio.get_running_loop()
        asked_ns = self._clock.wall_ns()
        loop.add_reader(self._socket, self._hear)
        try:
            for number, peer in enumerate(self._peers):
                self._send(2 * number, peer, SMALL_BYTES)
                self._send(2 * number + 1, peer, max(SMALL_BYTES, peer.mtu - IP_HEADER_BYTES))
            if self._sent_ns:
                await pause(self._clock, ANSWER_TIMEOUT_S, self._is_complete)
        finally:
            loop.remove_reader(self._socket)
        return [
            Answer(peer, asked_ns, self._latency_us(2 * number), 2 * number + 1 in self._came_ns)
            for number, peer in enumerate(self._peers)
        ]

    def _send(self, sequence: int, peer: Peer, size_bytes: int) -> None:
        request = echo_request(self._identifier, sequence, self._token, size_bytes)
        source = struct.pack("=i4s4s", 0, socket.inet_aton(peer.source), bytes(4))
        ancillary = [(socket.IPPROTO_IP, _IP_PKTINFO, source)]
        sent_ns = self._clock.wall_ns()
        try:
            self._socket.sendmsg([request], ancillary, 0, (peer.address, 0))
        except OSError as error:
            if error.errno not in _LOST:
                raise NetworkError(f"probe to {peer.address}: {error.strerror}") from error
            return
        self._sent_ns[sequence] = sent_ns

    def _hear(self) -> None:
        for _ in range(REPLIES_PER_TURN_MAX):
            try:
                packet, ancillary, _, _ = self._socket.recvmsg(
                    PACKET_BYTES_MAX, socket.CMSG_SPACE(_TIMESPEC.size)
                )
            except OSError:  # nothing more is there, or an error that no peer answered with
                return
            reply = read_reply(packet, self._identifier, self._token)
            if reply is None or reply.sequence not in self._sent_ns:
                continue
            peer = self._peers[reply.sequence // 2]
            if reply.source != peer.address:
                continue
            self._came_ns.setdefault(reply.sequence, self._arrival_ns(ancillary))
            if len(self._came_ns) == len(self._sent_ns):
                self._is_complete.set()

    def _arrival_ns(self, ancillary: Sequence[tuple[int, int, bytes]]) -> int:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack_from(data)
                return int(seconds * 1_000_000_000 + nanoseconds)
        return self._clock.wall_ns()

    def _latency_us(self, sequence: int) -> int:
        """0 when nothing came. A wall clock that was set in between cannot make it less than 1."""
        came_ns = self._came_ns.get(sequence)
        if came_ns is None:
            return 0
        latency_us = (came_ns - self._sent_ns[sequence]) // 1_000
        return min(max(1, latency_us), int(ANSWER_TIMEOUT_S * 1_000_000))
