"""The values of Raft: entries, hard state, messages, and the work a core hands to its driver.

Words are those of the Raft paper (Ongaro and Ousterhout 2014) and dissertation. Every message
carries its sender's term, acknowledgements included: a late one of an older term is ignored.
"""

from enum import IntEnum

import msgspec

from essaim_shared.ids import MemberId


class EntryKind(IntEnum):
    NORMAL = 0
    """`data` is a command for the state machine."""
    NO_OP = 1
    """The entry a new leader appends to commit what earlier terms left (dissertation 3.6.2)."""
    CONFIGURATION = 2
    """`data` is an encoded Configuration."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    term: int
    index: int
    kind: EntryKind
    data: bytes


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """Who votes. `voters_outgoing` is empty but during a joint change (dissertation 4.3)."""

    voters: tuple[MemberId, ...]
    voters_outgoing: tuple[MemberId, ...] = ()
    learners: tuple[MemberId, ...] = ()


class HardState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What must be on disk before any message of its term leaves (rule 4)."""

    term: int = 0
    vote: MemberId | None = None
    commit: int = 0


class SnapshotMetadata(msgspec.Struct, frozen=True, array_like=True):
    """Names a snapshot: the state once the entry at (index, term) is applied."""

    index: int
    term: int
    configuration: Configuration
    """In effect at `index`: `core.configuration_at(index)` when the snapshot was taken."""


class MessageType(IntEnum):
    PRE_VOTE_REQUEST = 1
    PRE_VOTE_RESPONSE = 2
    VOTE_REQUEST = 3
    VOTE_RESPONSE = 4
    APPEND_REQUEST = 5
    APPEND_RESPONSE = 6
    HEARTBEAT_REQUEST = 7
    HEARTBEAT_RESPONSE = 8
    READ_INDEX_REQUEST = 9
    """A follower asks the leader for an index at which its read is linearizable."""
    READ_INDEX_RESPONSE = 10
    TIMEOUT_NOW = 11
    """Leader transfer: campaign at once (dissertation 3.10)."""
    SNAPSHOT_REQUEST = 12
    """The leader names the snapshot that it is about to stream (`snapshot`; no bytes of it)."""
    SNAPSHOT_RESPONSE = 13


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One datagram between two members; may be lost, doubled, delayed or overtaken."""

    type: MessageType
    sender: MemberId
    receiver: MemberId
    term: int
    index: int = 0
    """Request: index of the entry before `entries` (append), last index (vote).
    Response: the index matched or, when rejected, the index of the refused request."""
    log_term: int = 0
    """Term of the entry at `index`; in a rejection the hint's term."""
    entries: tuple[Entry, ...] = ()
    commit: int = 0
    reject: bool = False
    hint: int = 0
    """Rejected append: where the follower's log may agree (fast back-off, rule 9)."""
    round: int = 0
    """Read-round counter of a heartbeat and of its response (rule 15)."""
    context: int = 0
    """Of a read-index request: the asker's own number for it, handed back."""
    force: bool = False
    """A vote asked for by a leader transfer: a living leader's grace does not count (rule 2)."""
    snapshot: SnapshotMetadata | None = None


class Role(IntEnum):
    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


class ReadState(msgspec.Struct, frozen=True, gc=False):
    """A read that may be served once the state machine has applied `index`."""

    context: int
    index: int


class Ready(msgspec.Struct, frozen=True, gc=False):
    """The work of one turn, in the order in which a driver must do it.

    1. send `messages_now` (leader's appends and heartbeats may go out before the local sync);
    2. write `entries` and `hard_state` to the log, sync if `must_sync`;
    3. only then send `messages_after_sync` (votes, append responses), `core.persisted(...)`;
    4. apply `committed`, then answer `reads` that are covered.
    """

    entries: tuple[Entry, ...] = ()
    hard_state: HardState | None = None
    must_sync: bool = False
    messages_now: tuple[Message, ...] = ()
    messages_after_sync: tuple[Message, ...] = ()
    committed: tuple[Entry, ...] = ()
    reads: tuple[ReadState, ...] = ()
    reads_refused: tuple[int, ...] = ()
    """Contexts of reads that were pending when leadership was lost, or had no leader: ask again."""
    snapshot_to_send: tuple[tuple[MemberId, SnapshotMetadata], ...] = ()
    """Stream the newest durable snapshot, which is at least this one, to these members; each ends
    with one `core.report_snapshot`, however it ends."""
    persist_term: int = 0
    """With `persist_index`: what to hand to `core.persisted` once this Ready is on disk."""
    persist_index: int = 0
    """The last entry that this Ready, together with all earlier ones, puts on disk."""
