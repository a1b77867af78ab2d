"""Snapshots as the core sees them: names of states, never their bytes (paper section 7).

The leader's core notices that a follower needs entries which were compacted away, tells it so with
a SNAPSHOT_REQUEST and asks its driver to stream the snapshot. The follower's driver stores what
comes, and when all of it is durable it calls `install`. What a snapshot holds is committed, so it
does not matter who sent it, or in which term: one that is newer than what is committed here is
welcome, any other is not needed.
"""

from collections.abc import Sequence

from essaim_master.raft.log import RaftLog
from essaim_master.raft.member import Member
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    Message,
    MessageType,
    Role,
    SnapshotMetadata,
)
from essaim_master.raft.progress import Progress, ProgressState
from essaim_shared.errors import BrokenInvariant, MalformedMessage
from essaim_shared.ids import MemberId

# The leader's side


def offer(member: Member, follower: MemberId, progress: Progress) -> None:
    """The follower needs what is gone: have the driver send it the snapshot.

    Not before it answered something: a stream to a host that is off helps nobody.
    """
    if not progress.is_recently_active:
        return  # The answer to a heartbeat makes an append due again.
    snapshot = member.snapshot
    if snapshot is None or snapshot.index + 1 < member.log.first_index:
        raise BrokenInvariant(
            f"{follower} needs entry {progress.next}, the log here starts at"
            f" {member.log.first_index}, and no snapshot reaches that far"
        )
    progress.become_snapshot(snapshot.index)
    member.send(
        MessageType.SNAPSHOT_REQUEST,
        follower,
        index=snapshot.index,
        log_term=snapshot.term,
        snapshot=snapshot,
    )
    member.snapshots_to_send.append((follower, snapshot))


def report(member: Member, follower: MemberId, *, ok: bool) -> None:
    """The stream to `follower` ended; a failed one is begun again after a heartbeat."""
    progress = member.progress.get(follower)
    if progress is not None and progress.state is ProgressState.SNAPSHOT:
        progress.snapshot_ended(ok=ok)


# The follower's side


def needs(member: Member, snapshot: SnapshotMetadata) -> bool:
    """Whether the state here must be replaced by this one; the log alone does not lead there."""
    log = member.log
    return (
        member.role is not Role.LEADER
        and snapshot.index > log.commit
        and log.term_at(snapshot.index) != snapshot.term
    )


def on_snapshot_request(member: Member, message: Message) -> None:
    """The leader is about to stream a snapshot: say so if the log here leads there already."""
    snapshot = message.snapshot
    if snapshot is not None and not needs(member, snapshot):
        _say_held(member, snapshot)


def _say_held(member: Member, snapshot: SnapshotMetadata) -> None:
    """Our log holds the snapshot's last entry, hence everything before it (paper 5.3)."""
    member.log.commit_to(snapshot.index)
    if member.leader is not None and member.role is Role.FOLLOWER:
        member.send(MessageType.APPEND_RESPONSE, member.leader, index=member.log.commit)


def install(member: Member, snapshot: SnapshotMetadata) -> bool:
    """Begin anew from a snapshot that is durable here; False: not needed (any more)."""
    if not needs(member, snapshot):
        if member.role is not Role.LEADER:
            _say_held(member, snapshot)
        return False
    if member.role is not Role.FOLLOWER or member.term < snapshot.term:
        # The campaign spoke of a log that is no more; and our term is never below our log's.
        member.become_follower(max(member.term, snapshot.term), None)
    member.snapshot = snapshot
    member.log.reset(snapshot)
    member.adopt_configuration()
    if member.leader is not None:
        member.send(MessageType.APPEND_RESPONSE, member.leader, index=snapshot.index)
    return True


# Everybody


def recovered_log(
    configuration: Configuration, entries: Sequence[Entry], snapshot: SnapshotMetadata | None
) -> RaftLog:
    """The log of a member that starts, from what its disk holds.

    Entries at and before the end of the snapshot are kept for slow followers, if they lead to
    it. If they do not, the snapshot came from elsewhere and the process ended before the log on
    disk began anew: then none of them counts (paper section 7, figure 13). Raises BrokenInvariant
    for entries that the snapshot does not reach, or that hold what no leader appends.
    """
    try:
        log = _recovered_log(configuration, entries, snapshot)
    except MalformedMessage as error:
        raise BrokenInvariant(f"in the log on disk: {error}") from error
    log.handed_out = log.last_index
    return log


def _recovered_log(
    configuration: Configuration, entries: Sequence[Entry], snapshot: SnapshotMetadata | None
) -> RaftLog:
    if snapshot is None:
        return RaftLog(entries, configuration=configuration)
    if not entries or entries[0].index > snapshot.index:
        return RaftLog(entries, snapshot.index, snapshot.term, snapshot.configuration)
    position = snapshot.index - entries[0].index
    if position >= len(entries) or entries[position].term != snapshot.term:
        return RaftLog((), snapshot.index, snapshot.term, snapshot.configuration)
    # The first of them is kept only as what the second one follows.
    log = RaftLog(entries[1 : position + 1], entries[0].index, entries[0].term)
    log.configurations.reset(snapshot.index, snapshot.configuration)
    log.commit = log.applying = log.applied = snapshot.index
    log.append(entries[position + 1 :])
    return log


def compacted(member: Member, snapshot: SnapshotMetadata, first_kept_index: int) -> None:
    """Our own snapshot is durable: forget the entries before `first_kept_index`."""
    log = member.log
    if snapshot.index > log.applied or log.term_at(snapshot.index) != snapshot.term:
        raise BrokenInvariant(
            f"snapshot at {snapshot.term}/{snapshot.index} reported, applied {log.applied},"
            f" term there {log.term_at(snapshot.index)}"
        )
    if member.snapshot is not None and snapshot.index < member.snapshot.index:
        raise BrokenInvariant(f"snapshot at {snapshot.index} after one at {member.snapshot.index}")
    if first_kept_index > snapshot.index + 1:
        raise BrokenInvariant(
            f"entries from {first_kept_index} on are kept, the snapshot ends at {snapshot.index}"
        )
    member.snapshot = snapshot
    log.compact(first_kept_index, snapshot.index)
