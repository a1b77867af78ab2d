"""Which configuration is in effect: the latest of the log, committed or not (dissertation 4.1).

A member uses a configuration from the moment it is appended. If the entry is truncated, the one
before it is in effect again; so the ones after the last snapshot are kept, with their indexes.
Why on append and not when applied: docs/adr/0013.
"""

from bisect import bisect_right

import msgspec

from essaim_master.raft.messages import Configuration, Entry, EntryKind
from essaim_shared.errors import MalformedMessage
from essaim_shared.undecodable import UNDECODABLE

CONFIGURATION = EntryKind.CONFIGURATION
"""A name of this module's own: it is looked up once for every entry that comes by."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Configuration)


def encode(configuration: Configuration) -> bytes:
    """The data of a CONFIGURATION entry."""
    return _encoder.encode(configuration)


def decode(data: bytes) -> Configuration:
    """Raises MalformedMessage for what no leader appends. Fields of a later version are skipped."""
    try:
        configuration = _decoder.decode(data)
    except UNDECODABLE as error:
        raise MalformedMessage(f"a configuration of {len(data)} bytes: {error}") from error
    voters, learners = configuration.voters, configuration.learners
    if not voters:
        raise MalformedMessage("a configuration without voters")
    for names in (voters, configuration.voters_outgoing, learners):
        if len(set(names)) != len(names) or not all(names):
            raise MalformedMessage(f"a configuration with doubled or empty names: {names}")
    if both := {*voters, *configuration.voters_outgoing} & set(learners):
        raise MalformedMessage(f"a configuration in which {sorted(both)} vote and learn")
    return configuration


class Placed(msgspec.Struct, frozen=True):
    """A configuration and the index of its entry; at or below that of a snapshot: from there."""

    index: int
    configuration: Configuration


class Configurations:
    """Those that a log holds. The first one is committed, so there is always one in effect."""

    def __init__(self, index: int, configuration: Configuration) -> None:
        self._placed = [Placed(index, configuration)]

    @property
    def latest(self) -> Placed:
        return self._placed[-1]

    @property
    def before_latest(self) -> Configuration:
        """What a truncation of the latest one would bring back."""
        return self._placed[-2 if len(self._placed) > 1 else -1].configuration

    def at(self, index: int) -> Configuration:
        """In effect once the entry at `index` is; not below the last compaction."""
        position = bisect_right(self._placed, index, key=lambda placed: placed.index) - 1
        return self._placed[max(position, 0)].configuration

    def appended(self, entry: Entry) -> None:
        """An entry of kind CONFIGURATION. Raises MalformedMessage."""
        self._placed.append(Placed(entry.index, decode(entry.data)))

    def truncated_from(self, index: int) -> None:
        while len(self._placed) > 1 and self._placed[-1].index >= index:
            self._placed.pop()

    def compacted(self, index: int) -> None:
        """Forget those that were replaced at or before `index`."""
        position = bisect_right(self._placed, index, key=lambda placed: placed.index) - 1
        if position > 0:
            del self._placed[:position]

    def reset(self, index: int, configuration: Configuration) -> None:
        self._placed = [Placed(index, configuration)]
