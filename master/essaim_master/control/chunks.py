"""From what a node is to be told to messages that fit the bus. Pure.

The lists of a message are put together from packed pieces, most of which many nodes share: a full
set of ten thousand endpoints is packed once for all nodes of a network.
"""

from typing import Any, Final

import msgspec

from essaim_master.control.difference import OWN_LISTS, SHARED_LISTS, Difference, Piece
from essaim_shared.limits import BUS_CHUNK_BYTES_MAX
from essaim_shared.messages import Assignments, encode

ENVELOPE_BYTES: Final = 1024
"""Room for the fields around a chunk's lists."""

LISTS: Final = (*OWN_LISTS, *SHARED_LISTS)

Part = dict[str, list[Piece]]
"""The lists of one chunk."""


def assignment_payloads(
    difference: Difference,
    term: int,
    sequence: int,
    full: bool,
    wants_applied: bool = False,
    chunk_bytes_max: int = BUS_CHUNK_BYTES_MAX,
) -> list[bytes]:
    """One message if it fits, else several chunks of the same sequence. A single task that is
    larger than a chunk gets a message of its own; the API bounds its size."""
    parts = _cut(difference, chunk_bytes_max)
    payloads = []
    for number, part in enumerate(parts):
        # A list that is packed already goes into the message as it is.
        lists: dict[str, Any] = {name: _array(pieces) for name, pieces in part.items()}
        message = Assignments(
            term=term,
            sequence=sequence,
            full=full,
            chunk=number,
            chunks=len(parts),
            wants_applied=wants_applied,
            **lists,
        )
        payloads.append(encode(message))
    return payloads


def _cut(difference: Difference, chunk_bytes_max: int) -> list[Part]:
    """Fill one part after the other."""
    parts: list[Part] = [{}]
    size_bytes = ENVELOPE_BYTES
    for name in LISTS:
        for piece in difference.pieces(name):
            piece_bytes = len(piece[1])
            if size_bytes + piece_bytes > chunk_bytes_max and size_bytes > ENVELOPE_BYTES:
                parts.append({})
                size_bytes = ENVELOPE_BYTES
            parts[-1].setdefault(name, []).append(piece)
            size_bytes += piece_bytes
    return parts


def _array(pieces: list[Piece]) -> msgspec.Raw:
    """One msgpack array of all the items (the format's `array` family: 15, 2^16-1, 2^32-1)."""
    count = sum(items for items, _ in pieces)
    if count < 16:
        head = bytes((0x90 | count,))
    elif count < 1 << 16:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return msgspec.Raw(b"".join((head, *(items for _, items in pieces))))
