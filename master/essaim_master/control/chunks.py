"""From what a node is to be told to messages that fit the bus. Pure."""

import msgspec

from essaim_master.control.assignments import Difference
from essaim_shared.limits import BUS_CHUNK_BYTES_MAX
from essaim_shared.messages import Assignments, encode

ENVELOPE_BYTES = 1024
"""Room for the fields around a chunk's lists."""

LISTS = tuple(Difference.__slots__)
"""The lists of a difference; those of an assignment message have the same names."""

_encoder = msgspec.msgpack.Encoder()


def assignment_payloads(
    difference: Difference,
    term: int,
    sequence: int,
    full: bool,
    chunk_bytes_max: int = BUS_CHUNK_BYTES_MAX,
) -> list[bytes]:
    """One message if it fits, else several chunks of the same sequence. A single task that is
    larger than a chunk gets a message of its own; the API bounds its size."""
    parts = _cut(difference, chunk_bytes_max)
    return [
        encode(
            Assignments(
                term=term,
                sequence=sequence,
                full=full,
                chunk=number,
                chunks=len(parts),
                removed_tasks=tuple(part.removed_tasks),
                tasks=tuple(part.tasks),
                removed_networks=tuple(part.removed_networks),
                networks=tuple(part.networks),
                removed_endpoints=tuple(part.removed_endpoints),
                endpoints=tuple(part.endpoints),
                credentials=tuple(part.credentials),
            )
        )
        for number, part in enumerate(parts)
    ]


def _cut(difference: Difference, chunk_bytes_max: int) -> list[Difference]:
    """Fill one part after the other. Small differences, nearly all, are not measured."""
    if _is_small(difference, chunk_bytes_max):
        return [difference]
    parts = [Difference()]
    size_bytes = ENVELOPE_BYTES
    for name in LISTS:
        for item in getattr(difference, name):
            item_bytes = len(_encoder.encode(item))
            if size_bytes + item_bytes > chunk_bytes_max and size_bytes > ENVELOPE_BYTES:
                parts.append(Difference())
                size_bytes = ENVELOPE_BYTES
            getattr(parts[-1], name).append(item)
            size_bytes += item_bytes
    return parts


LARGE = ("tasks", "credentials")
"""Lists whose items have no common bound, and are measured."""

ENDPOINT_BYTES_MAX = 256
"""Generous for one encoded endpoint, network, or id."""


def _is_small(difference: Difference, chunk_bytes_max: int) -> bool:
    others = sum(len(getattr(difference, name)) for name in LISTS if name not in LARGE)
    room_bytes = chunk_bytes_max - ENVELOPE_BYTES - others * ENDPOINT_BYTES_MAX
    for item in (*difference.tasks, *difference.credentials):
        room_bytes -= len(_encoder.encode(item))
        if room_bytes < 0:
            return False
    return room_bytes >= 0
