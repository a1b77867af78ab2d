"""What fuzzing has found, kept: each of these once ended a process."""

import msgspec
import pytest
from support.fuzz_damage import DEPTH
from support.fuzz_decoders import DECODERS

_NESTED = b"\x91" * DEPTH + b"\xc0"
_NO_TEXT = b"\xa2\xff\xfe"
_BEAT = msgspec.msgpack.encode("heartbeat")
_TYPE = msgspec.msgpack.encode("type")
_UNKNOWN = msgspec.msgpack.encode("unknown")

FINDINGS = {
    "a field that nobody knows, nested deeper than the stack": (
        "bus message",
        b"\x92\x01\x82" + _TYPE + _BEAT + _UNKNOWN + _NESTED,
    ),
    "a text that is not UTF-8": (
        "bus message",
        b"\x92\x01\x82" + _TYPE + _BEAT + msgspec.msgpack.encode("node_id") + _NO_TEXT,
    ),
    "a cluster id that is not UTF-8": (
        "peer frame, decode_greeting",
        b"\0\0\0\x09\x01" + b"\x94\x02" + _NO_TEXT + b"\xa1m\xa1n",
    ),
    "an item behind the last known one, nested deeper than the stack": (
        "peer frame, decode_answer",
        b"\0\0\0\x09\x02" + b"\x93\xc0\x01" + _NESTED,
    ),
    "a voter whose name is not UTF-8": (
        "configuration in the log",
        b"\x91\x91" + _NO_TEXT,
    ),
    "a service whose name is not UTF-8": ("service in JSON", b'{"Name":"\xff\xfe"}'),
    "a number of settings with thousands of digits": (
        "an agent's settings",
        b"cluster_id = " + b"9" * 5000,
    ),
    "settings nested deeper than the stack": (
        "an agent's settings",
        b"cluster_id = " + b"[" * DEPTH + b"]" * DEPTH,
    ),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_it_is_a_typed_error_now(name: str) -> None:
    decoder, found = DECODERS[FINDINGS[name][0]], FINDINGS[name][1]
    with pytest.raises(decoder.errors):
        decoder.decode(found)
