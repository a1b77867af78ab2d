"""Damaged bytes, as hypothesis strategies: noise, spoilt copies of good samples, and well-formed
values where others are expected."""

from collections.abc import Sequence

import msgspec
from hypothesis import strategies as st

NOISE_BYTES_MAX = 512
EDITS_MAX = 6
DEPTH = 3000
"""Deeper than Python's stack."""

HUGE = b"\xff\xff\xff\xff"

BOMBS: tuple[bytes, ...] = (
    # Lengths that promise four thousand million items or bytes, of each kind of msgpack.
    *(
        prefix + HUGE
        for prefix in (b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9", b"\x92\x01\xdd", b"\x95\xdd")
    ),
    b"\x91" * DEPTH,
    b"\x81\xa1k" * DEPTH,
    b"[" * DEPTH,
    b'{"k":' * DEPTH,
    b"\xa2\xff\xfe",
    b'"\xff\xfe"',
    b"\na = " + b"[" * DEPTH + b"]" * DEPTH + b"\n",
    b"\na = " + b"{a=" * DEPTH,
    b"9" * 5 * DEPTH,
    HUGE * 4,
)
"""Small inputs that cost much to decode without care."""

_keys = st.sampled_from(["type", "term", "Name", "TaskTemplate", "x", "", "\u0000", "é"])
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
)
trees = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)
"""What both JSON and msgpack can say."""


@st.composite
def spoilt(draw: st.DrawFn, samples: Sequence[bytes]) -> bytes:
    """A sample after a few edits: bytes changed, cut out, doubled, or put in."""
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, EDITS_MAX))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 8))
        match draw(st.sampled_from(("change", "cut", "double", "insert", "end", "bomb"))):
            case "change" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + length]
            case "insert":
                data[at:at] = draw(st.binary(max_size=8))
            case "end":
                del data[at:]
            case "bomb":
                data[at:at] = draw(st.sampled_from(BOMBS))
    return bytes(data)


def hostile(samples: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Everything above."""
    packed = trees.map(msgspec.msgpack.encode) | trees.map(msgspec.json.encode)
    noise = st.binary(max_size=NOISE_BYTES_MAX)
    return spoilt(samples) | noise | packed | st.sampled_from(BOMBS)
