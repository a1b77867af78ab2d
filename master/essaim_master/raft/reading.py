"""Reads on their way: asked here or passed on by a follower, confirmed by rounds of heartbeats."""

from essaim_master.raft.member import Member
from essaim_master.raft.messages import Message, MessageType, ReadState, Role
from essaim_shared.ids import MemberId


def read_index(member: Member, context: int) -> None:
    """Ask for an index at which a read is linearizable; the answer comes with a later Ready."""
    if member.role is Role.LEADER:
        _ask(member, context, None)
    elif member.leader is None or member.forwarded.is_full:
        member.reads_refused.append(context)
    else:
        member.forwarded.add(context, member.ticks + member.config.election_ticks_max)
        member.send(MessageType.READ_INDEX_REQUEST, member.leader, context=context)


def on_read_index_request(member: Member, message: Message) -> None:
    _ask(member, message.context, message.sender)


def refuse_read_index_request(member: Member, message: Message) -> None:
    """Not the leader (any more): say so, rather than let the asker wait for its deadline."""
    _refuse(member, message.context, message.sender)


def on_read_index_response(member: Member, message: Message) -> None:
    if not member.forwarded.answer(message.context):
        return
    if message.reject:
        member.reads_refused.append(message.context)
    else:
        member.reads.append(ReadState(message.context, message.index))


def _ask(member: Member, context: int, asker: MemberId | None) -> None:
    log, rounds = member.log, member.rounds
    if rounds.is_full:
        _refuse(member, context, asker)
    elif log.term_at(log.commit) == member.term:
        rounds.ask(context, asker, log.commit)
    else:
        rounds.postpone(context, asker)


def _refuse(member: Member, context: int, asker: MemberId | None) -> None:
    if asker is None:
        member.reads_refused.append(context)
    else:
        member.send(MessageType.READ_INDEX_RESPONSE, asker, context=context, reject=True)


def answer_confirmed(member: Member) -> None:
    """Hand out the reads that a quorum confirmed."""
    for read in member.rounds.take_confirmed(member.configuration):
        if read.asker is None:
            member.reads.append(ReadState(read.context, read.commit))
        else:
            member.send(
                MessageType.READ_INDEX_RESPONSE,
                read.asker,
                index=read.commit,
                context=read.context,
            )


def expire_forwarded(member: Member) -> None:
    member.reads_refused += member.forwarded.take_expired(member.ticks)
