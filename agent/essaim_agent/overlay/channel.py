"""Sockets to the kernel's network tables: requests in batches, dumps, notifications. Blocking.

The bytes are made and read by others (`rtnetlink`, `flows`).
"""

import contextlib
import os
import socket
import struct
from collections.abc import Sequence

from essaim_agent.network import NetworkError
from essaim_agent.overlay import rtnetlink as rt

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP, NETLINK_NO_ENOBUFS, NETLINK_CAP_ACK = 1, 5, 10

RECEIVE_BYTES = 256 * 1024
RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
BATCH_REQUESTS_MAX = 128
"""Their acknowledgements, a kilobyte each with the kernel's book-keeping, must fit the receive
buffer, of which an unprivileged process gets 208 KiB (net.core.rmem_max)."""
ANSWER_TIMEOUT_S = 20
"""The kernel answers at once unless its network lock is held, by a mass removal for example."""

SETTLE_ROUND_S = 0.005
SETTLE_ROUNDS_MAX = 1000


class Channel:
    """One netlink socket, of the network namespace in which it was opened."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        except OSError as error:
            raise NetworkError(f"netlink socket: {error.strerror}") from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        timeout = struct.pack("ll", ANSWER_TIMEOUT_S, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        self._socket.bind((0, 0))
        self._sequence = 1

    def close(self) -> None:
        self._socket.close()

    def send(self, requests: Sequence[bytes]) -> list[int]:
        """Carry out a batch in order; an errno for each, 0 for success. One failure does not
        stop the ones behind it. Raises NetworkError when the kernel does not answer."""
        outcome: list[int] = []
        for start in range(0, len(requests), BATCH_REQUESTS_MAX):
            outcome.extend(self._send_batch(list(requests[start : start + BATCH_REQUESTS_MAX])))
        return outcome

    def _send_batch(self, requests: list[bytes]) -> list[int]:
        first = self._sequence
        self._sequence += len(requests)
        self._socket.send(rt.number_requests(requests, first))
        outcome: dict[int, int] = {}
        while len(outcome) < len(requests):
            for kind, sequence, payload in rt.messages(self._receive()):
                if kind == rt.NLMSG_ERROR and sequence >= first:
                    outcome[sequence - first] = rt.error_number(payload)
        return [outcome[i] for i in range(len(requests))]

    def get(self, request: bytes) -> bytes:
        """The payload of the one answer. Raises NetworkError."""
        first = self._sequence
        self._sequence += 1
        self._socket.send(rt.number_requests([request], first))
        while True:
            for kind, sequence, payload in rt.messages(self._receive()):
                if sequence == first and kind == rt.NLMSG_ERROR:
                    raise NetworkError(f"netlink: {os.strerror(rt.error_number(payload))}")
                if sequence == first:
                    return payload

    def dump(self, request: bytes) -> list[bytes]:
        """The payloads of a dump. One that the tables changed under is taken as it came: the
        next change announces itself."""
        first = self._sequence
        self._sequence += 1
        self._socket.send(rt.number_requests([request], first))
        payloads: list[bytes] = []
        while True:
            for kind, sequence, payload in rt.messages(self._receive()):
                if sequence != first:
                    continue
                if kind == rt.NLMSG_DONE:
                    return payloads
                if kind == rt.NLMSG_ERROR:
                    raise NetworkError(f"netlink dump: {os.strerror(rt.error_number(payload))}")
                payloads.append(payload)

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError as error:
            raise NetworkError(f"the kernel did not answer in {ANSWER_TIMEOUT_S} s") from error


def check(outcome: Sequence[int], doing: str, allowed: frozenset[int] = frozenset()) -> None:
    """Raises NetworkError for the first errno that is neither 0 nor allowed."""
    for number in outcome:
        if number and number not in allowed:
            raise NetworkError(f"{doing}: {os.strerror(number)}")


def open_notifications(*groups: int) -> socket.socket:
    """A non-blocking socket that becomes readable when something of these groups changes."""
    listener = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    listener.bind((0, 0))
    for group in groups:
        listener.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    return listener


def settle(ends: Sequence[tuple[Channel, str]]) -> None:
    """Return once these devices really pass packets.

    A device that was set up before its peer has no transmit queue until the kernel's link watch
    comes by (net/core/link_watch.c), some milliseconds later, at times a second: until then what
    it should send is dropped without a word, a container's first ARP request for example. Asking
    a kernel from 6.9 on for the link does that work at once; on others the notification of it is
    waited for. Raises NetworkError.
    """
    waiting = _not_operational(ends)
    if not waiting:
        return
    with open_notifications(rt.RTNLGRP_LINK) as listener:
        listener.setblocking(True)
        listener.settimeout(SETTLE_ROUND_S)
        for _ in range(SETTLE_ROUNDS_MAX):
            waiting = _not_operational(waiting)
            if not waiting:
                return
            # Of several devices some may be in another namespace, hence the short time-out.
            with contextlib.suppress(TimeoutError):
                listener.recv(RECEIVE_BYTES)
    names = ", ".join(name for _, name in waiting)
    raise NetworkError(f"{names}: no carrier after {SETTLE_ROUNDS_MAX * SETTLE_ROUND_S:g} s")


def _not_operational(ends: Sequence[tuple[Channel, str]]) -> list[tuple[Channel, str]]:
    return [
        (channel, name)
        for channel, name in ends
        if not rt.is_operational(channel.get(rt.get_link(name)))
    ]
