"""Echoes as bytes: what is sent is a valid ICMP message, and only its own answer is taken."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from essaim_agent.network_health.packets import (
    ECHO_REPLY,
    SMALL_BYTES,
    TOKEN_BYTES,
    EchoReply,
    checksum,
    echo_request,
    read_reply,
)

TOKEN = b"8 octets"
IDENTIFIER, SEQUENCE = 0xBEEF, 7


def ip(icmp: bytes, options: bytes = b"") -> bytes:
    head = bytes([0x45 + len(options) // 4]) + bytes(11) + bytes([10, 244, 0, 2]) + bytes(4)
    return head + options + icmp


def answer(size_bytes: int = SMALL_BYTES) -> bytes:
    """What a kernel makes of a request: another type, and the same rest."""
    return bytes([ECHO_REPLY]) + echo_request(IDENTIFIER, SEQUENCE, TOKEN, size_bytes)[1:]


@given(st.integers(SMALL_BYTES, 9000), st.binary(min_size=TOKEN_BYTES, max_size=TOKEN_BYTES))
def test_a_request_has_the_size_that_was_asked_for_and_a_checksum_that_holds(
    size_bytes: int, token: bytes
) -> None:
    request = echo_request(IDENTIFIER, SEQUENCE, token, size_bytes)
    assert len(request) == size_bytes
    assert checksum(request) == 0


def test_the_checksum_is_that_of_the_rfc() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


@pytest.mark.parametrize("options", [b"", bytes(8)])
def test_an_answer_is_read_behind_any_header(options: bytes) -> None:
    reply = read_reply(ip(answer(100), options), IDENTIFIER, TOKEN)
    assert reply == EchoReply("10.244.0.2", SEQUENCE, 20 + len(options) + 100)


OTHERS = {
    "a request": ip(echo_request(IDENTIFIER, SEQUENCE, TOKEN, SMALL_BYTES)),
    "another process": ip(bytes([ECHO_REPLY]) + echo_request(1, SEQUENCE, TOKEN, SMALL_BYTES)[1:]),
    "another round": ip(
        bytes([ECHO_REPLY]) + echo_request(IDENTIFIER, SEQUENCE, b"nonsense", SMALL_BYTES)[1:]
    ),
    "unreachable": ip(struct.pack("!BBHHH", 3, 1, 0, IDENTIFIER, SEQUENCE) + TOKEN),
    "IPv6": b"\x65" + ip(answer())[1:],
}


@pytest.mark.parametrize("packet", OTHERS.values(), ids=OTHERS.keys())
def test_what_answers_somebody_else_is_not_taken(packet: bytes) -> None:
    assert read_reply(packet, IDENTIFIER, TOKEN) is None


@given(st.binary(max_size=80))
def test_no_bytes_do_any_harm(packet: bytes) -> None:
    read_reply(packet, IDENTIFIER, TOKEN)


def test_a_cut_answer_is_none() -> None:
    whole = ip(answer())
    assert all(read_reply(whole[:n], IDENTIFIER, TOKEN) is None for n in range(len(whole)))
