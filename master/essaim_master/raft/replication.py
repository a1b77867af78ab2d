"""Log replication (paper 5.3, 5.4.2): the leader's appends, the follower's answers, commitment.

Sending is lazy: proposals and answers only note that something is due, and `send_due`, called once
a turn, packs all of it into as few messages as the bounds allow.
"""

from collections.abc import Sequence

from essaim_master.raft import quorum, snapshots
from essaim_master.raft.errors import NotLeader, ProposalDropped
from essaim_master.raft.log import ENTRY_OVERHEAD_BYTES
from essaim_master.raft.member import Member
from essaim_master.raft.messages import Entry, EntryKind, Message, MessageType, Role
from essaim_master.raft.progress import Progress, ProgressState
from essaim_shared.errors import BrokenInvariant
from essaim_shared.ids import MemberId

# The leader's side


def propose(member: Member, commands: Sequence[bytes]) -> range:
    """Append commands; their indexes. Nothing is appended when NotLeader or ProposalDropped."""
    if member.role is not Role.LEADER:
        raise NotLeader(member.leader)
    if member.transfer_target is not None:
        raise ProposalDropped(f"leadership is on its way to {member.transfer_target}")
    log = member.log
    uncommitted = log.uncommitted_bytes
    size_bytes = sum(map(len, commands)) + ENTRY_OVERHEAD_BYTES * len(commands)
    # One batch of any size is taken when nothing else waits, or a large one never could be.
    if uncommitted > 0 and uncommitted + size_bytes > member.config.uncommitted_bytes_max:
        raise ProposalDropped(
            f"{uncommitted} bytes wait to be committed, {size_bytes} more would exceed"
            f" {member.config.uncommitted_bytes_max}"
        )
    first, term, kind = log.last_index + 1, member.term, EntryKind.NORMAL
    log.append([Entry(term, index, kind, data) for index, data in enumerate(commands, first)])
    member.is_append_due = True
    return range(first, log.last_index + 1)


def append_no_op(member: Member) -> None:
    """The first entry of a term; with it, what earlier terms left is committed (paper 5.4.2)."""
    index = member.log.last_index + 1
    member.log.append([Entry(member.term, index, EntryKind.NO_OP, b"")])
    member.is_append_due = True


def send_due(member: Member) -> None:
    """Send every follower all that it lacks, as far as its window goes."""
    member.is_append_due = False
    for follower, progress in member.progress.items():
        _send_due_to(member, follower, progress)


def _send_due_to(member: Member, follower: MemberId, progress: Progress) -> None:
    log = member.log
    if progress.state is ProgressState.PROBE:
        if not progress.is_probe_sent and (
            progress.is_append_due or progress.next <= log.last_index
        ):
            _send_append(member, follower, progress, log.last_index)
        return
    if progress.state is ProgressState.SNAPSHOT:
        return
    while progress.next <= log.last_index and progress.can_send_entries:
        if not _send_append(member, follower, progress, log.last_index):
            return
    if progress.is_append_due or progress.commit_sent < log.commit:
        # No entries: it tells the commit, and its answer shows whether the window was lost.
        _send_append(member, follower, progress, progress.next - 1)


def _send_append(member: Member, follower: MemberId, progress: Progress, last: int) -> bool:
    """Send one append; False if what the follower needs is not in the log any more."""
    log = member.log
    previous = progress.next - 1
    previous_term = log.term_at(previous)
    if previous_term is None:
        snapshots.offer(member, follower, progress)
        return False
    entries = log.slice(progress.next, last, member.config.append_bytes_max)
    size_bytes = log.size_bytes(progress.next, previous + len(entries))
    member.send(
        MessageType.APPEND_REQUEST,
        follower,
        index=previous,
        log_term=previous_term,
        entries=entries,
        commit=log.commit,
    )
    progress.sent(len(entries), size_bytes, log.commit)
    return True


def send_heartbeats(member: Member) -> None:
    member.is_heartbeat_due = False
    member.heartbeat_elapsed = 0
    for follower, progress in member.progress.items():
        # Never beyond what the follower is known to hold: it takes this number on trust (rule 11).
        member.send(
            MessageType.HEARTBEAT_REQUEST,
            follower,
            commit=min(progress.match, member.log.commit),
            round_number=member.rounds.round,
        )


def on_append_response(member: Member, message: Message) -> None:
    progress = member.progress.get(message.sender)
    if progress is None:
        return
    progress.is_active = True
    if message.reject:
        agrees_at = message.hint
        if message.log_term > 0:
            agrees_at, _ = member.log.find_conflict_by_term(message.hint, message.log_term)
        if progress.refuse(message.index, agrees_at):
            member.is_append_due = True
        return
    if message.index > member.log.last_index:
        raise BrokenInvariant(
            f"{message.sender} acknowledges entry {message.index} in term {message.term},"
            f" the log of its leader {member.id} ends at {member.log.last_index}"
        )
    if progress.acknowledge(message.index, member.log.first_index):
        member.match[message.sender] = progress.match
        advance_commit(member)
    log = member.log
    if progress.next <= log.last_index or progress.commit_sent < log.commit:
        member.is_append_due = True
    hand_over_if_caught_up(member, message.sender)


def on_heartbeat_response(member: Member, message: Message) -> None:
    progress = member.progress.get(message.sender)
    if progress is None:
        return
    progress.is_active = True
    member.rounds.echo(message.sender, message.round)
    is_behind = progress.match < member.log.last_index
    may_be_stuck = is_behind or progress.state is ProgressState.PROBE
    # Once a tick is enough; the rounds of reads bring many more answers than that.
    if may_be_stuck and progress.resumed_tick != member.ticks:
        progress.resumed_tick = member.ticks
        progress.resume()
        member.is_append_due = True
    hand_over_if_caught_up(member, message.sender)  # Again: the first word may be lost.


def on_own_disk(member: Member, index: int) -> None:
    """Everything up to `index` is on this leader's disk: its own acknowledgement (rule 13)."""
    if index > member.log.last_index:
        raise BrokenInvariant(
            f"entry {index} reported durable, the log ends at {member.log.last_index}"
        )
    if index > member.match[member.id]:
        member.match[member.id] = index
        advance_commit(member)


def advance_commit(member: Member) -> None:
    """Commit what a quorum holds, if it is of this term; older entries follow it (rule 5)."""
    index = quorum.committed_index(member.configuration, member.match)
    log = member.log
    if index > log.commit and log.term_at(index) == member.term:
        log.commit_to(index)
        member.is_append_due = True
        member.rounds.release_postponed(log.commit)


def hand_over_if_caught_up(member: Member, follower: MemberId) -> None:
    """Tell the target of a leader transfer to campaign, once it holds the whole log."""
    if (
        member.transfer_target == follower
        and member.progress[follower].match == member.log.last_index
    ):
        member.send(MessageType.TIMEOUT_NOW, follower)


# The follower's side


def on_append_request(member: Member, message: Message) -> None:
    log = member.log
    if message.index < log.commit:
        # What is committed agrees; saying so lets the leader skip it (rule 8).
        member.send(MessageType.APPEND_RESPONSE, message.sender, index=log.commit)
        return
    last_known = log.try_append(message.index, message.log_term, message.entries)
    if last_known is not None:
        member.adopt_configuration()
        log.commit_to(min(message.commit, last_known))
        member.send(MessageType.APPEND_RESPONSE, message.sender, index=last_known)
        return
    hint, hint_term = log.find_conflict_by_term(
        min(message.index, log.last_index), message.log_term
    )
    member.send(
        MessageType.APPEND_RESPONSE,
        message.sender,
        index=message.index,
        log_term=hint_term,
        reject=True,
        hint=hint,
    )


def on_heartbeat_request(member: Member, message: Message) -> None:
    member.log.commit_to(message.commit)
    member.send(MessageType.HEARTBEAT_RESPONSE, message.sender, round_number=message.round)
