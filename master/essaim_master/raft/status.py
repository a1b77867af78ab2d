"""What a member can tell about itself, for `status` commands, metrics and tests."""

import msgspec

from essaim_master.raft.messages import Configuration, Role
from essaim_master.raft.progress import ProgressState
from essaim_shared.ids import MemberId


class FollowerStatus(msgspec.Struct, frozen=True):
    match: int
    """Highest index known to be on this follower's disk."""
    next: int
    """Index of the next entry to send it."""
    state: ProgressState
    is_active: bool
    """It answered in this or the last interval of check-quorum."""


class RaftStatus(msgspec.Struct, frozen=True):
    member_id: MemberId
    role: Role
    term: int
    leader: MemberId | None
    commit: int
    applied: int
    last_index: int
    configuration: Configuration
    """The latest of the log, committed or not."""
    progress: dict[MemberId, FollowerStatus]
    """Empty unless this member leads. Its own row shows its own disk."""
    configuration_index: int = 0
    """Of the entry that brought it; not committed yet if beyond `commit`. At or below a snapshot's
    index: it came with the snapshot."""
    first_index: int = 1
    """The first entry held here; those before it were compacted away."""
    snapshot_index: int = 0
    """Where the newest durable snapshot of this member ends; 0: there is none."""
