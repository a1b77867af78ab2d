"""Questions and answers of the probes, as bytes: ICMP echoes (RFC 792) by a raw socket. Pure."""

import struct

import msgspec

TOKEN_BYTES = 8
IP_HEADER_BYTES = 20
ICMP_HEADER_BYTES = 8
SMALL_BYTES = ICMP_HEADER_BYTES + TOKEN_BYTES

ECHO_REPLY, ECHO_REQUEST = 0, 8

_ICMP = struct.Struct("!BBHHH")


class EchoReply(msgspec.Struct, frozen=True):
    source: str
    sequence: int
    size_bytes: int
    """Of the whole IP packet."""


def echo_request(identifier: int, sequence: int, token: bytes, size_bytes: int) -> bytes:
    """An ICMP message of that size; the kernel writes the IP header in front of it."""
    payload = token.ljust(size_bytes - ICMP_HEADER_BYTES, b"\0")
    head = _ICMP.pack(ECHO_REQUEST, 0, 0, identifier, sequence)
    return _ICMP.pack(ECHO_REQUEST, 0, checksum(head + payload), identifier, sequence) + payload


def read_reply(packet: bytes, identifier: int, token: bytes) -> EchoReply | None:
    """From an IP packet as a raw socket receives it; None for one that answers somebody else."""
    if len(packet) < IP_HEADER_BYTES:
        return None
    header_bytes = (packet[0] & 0x0F) * 4
    if packet[0] >> 4 != 4 or len(packet) < header_bytes + SMALL_BYTES:
        return None
    kind, code, _, its_identifier, sequence = _ICMP.unpack_from(packet, header_bytes)
    its_token = packet[header_bytes + ICMP_HEADER_BYTES :][:TOKEN_BYTES]
    if (kind, code, its_identifier, its_token) != (ECHO_REPLY, 0, identifier, token):
        return None
    return EchoReply("%d.%d.%d.%d" % tuple(packet[12:16]), sequence, len(packet))  # noqa: UP031


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
