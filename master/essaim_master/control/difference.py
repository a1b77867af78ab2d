"""What one node is to be told. Pure.

Most of it is the same for many nodes: a new endpoint goes to a thousand of them. Such parts are
made once, handed around as they are, and packed once (`chunks`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from essaim_shared.ids import NetworkId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork, SealedCredentials, ServiceEntry
from essaim_shared.objects import Task

PIECE_BYTES_MAX: Final = 1024
"""Packed items come in pieces of this size, or of one item that is larger."""

Piece = tuple[int, bytes]
"""So many items, packed one after the other."""

_encoder = msgspec.msgpack.Encoder()


def packed(items: "list[object] | tuple[object, ...]") -> list[Piece]:
    """The items in msgpack, in pieces of which any number in a row make a list."""
    pieces: list[Piece] = []
    count, buffer = 0, bytearray()
    for item in items:
        before = len(buffer)
        _encoder.encode_into(item, buffer, -1)
        if len(buffer) > PIECE_BYTES_MAX and count:
            pieces.append((count, bytes(buffer[:before])))
            del buffer[:before]
            count = 0
        count += 1
    if count:
        pieces.append((count, bytes(buffer)))
    return pieces


@dataclass(slots=True, eq=False)
class Shared:
    """What several nodes are told in the same words. Never changed once it is made."""

    removed_endpoints: tuple[Endpoint, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    removed_services: tuple[ServiceEntry, ...] = ()
    services: tuple[ServiceEntry, ...] = ()
    removed_nodes: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    _packed: dict[str, list[Piece]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in SHARED_LISTS)

    def pieces(self, name: str) -> list[Piece]:
        """One of its lists, packed at the first call."""
        found = self._packed.get(name)
        if found is None:
            found = self._packed[name] = packed(getattr(self, name))
        return found


OWN_LISTS: Final = ("removed_tasks", "tasks", "removed_networks", "networks", "credentials")
SHARED_LISTS: Final = (
    "removed_endpoints",
    "endpoints",
    "removed_services",
    "services",
    "removed_nodes",
    "nodes",
)
"""The lists of an assignment message by their names, as they are called here too."""


@dataclass(slots=True)
class Difference:
    """What one node is to be told. Removals come before additions."""

    removed_tasks: list[TaskId] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    removed_networks: list[NetworkId] = field(default_factory=list)
    networks: list[NodeNetwork] = field(default_factory=list)
    credentials: list[SealedCredentials] = field(default_factory=list)
    """Added by the dispatcher, which alone may seal."""
    shared: list[Shared] = field(default_factory=list)

    def pieces(self, name: str) -> Iterator[Piece]:
        """One list of the message, packed."""
        if name in OWN_LISTS:
            yield from packed(getattr(self, name))
        else:
            for part in self.shared:
                yield from part.pieces(name)

    # The shared lists in full, for whoever looks at one difference alone.

    @property
    def removed_endpoints(self) -> list[Endpoint]:
        return [item for part in self.shared for item in part.removed_endpoints]

    @property
    def endpoints(self) -> list[Endpoint]:
        return [item for part in self.shared for item in part.endpoints]

    @property
    def removed_services(self) -> list[ServiceEntry]:
        return [item for part in self.shared for item in part.removed_services]

    @property
    def services(self) -> list[ServiceEntry]:
        return [item for part in self.shared for item in part.services]

    @property
    def removed_nodes(self) -> list[str]:
        return [item for part in self.shared for item in part.removed_nodes]

    @property
    def nodes(self) -> list[str]:
        return [item for part in self.shared for item in part.nodes]
