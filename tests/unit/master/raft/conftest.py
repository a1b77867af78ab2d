"""A small cluster whose disks are instant and whose links lose only what a test cuts."""

import random
from collections.abc import Callable, Sequence

import pytest

from essaim_master.raft.config import RaftConfig
from essaim_master.raft.core import RaftCore
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Ready,
    SnapshotMetadata,
)
from essaim_shared.ids import MemberId

TURNS_MAX = 1000


def entries_of(*terms: int) -> tuple[Entry, ...]:
    """A log whose entries have these terms; the text of each names its place."""
    return tuple(
        Entry(term, index, EntryKind.NORMAL, f"{term}/{index}".encode())
        for index, term in enumerate(terms, 1)
    )


def make_core(
    name: str = "a",
    voters: Sequence[str] = ("a", "b", "c"),
    *,
    log: Sequence[int] = (),
    term: int | None = None,
    vote: str | None = None,
    commit: int = 0,
    learners: Sequence[str] = (),
    entries: Sequence[Entry] | None = None,
    snapshot: SnapshotMetadata | None = None,
    **numbers: int,
) -> RaftCore:
    """One member. Unless told otherwise, all campaign after exactly 6 ticks of silence. `log`: the
    terms of its entries, or `entries` themselves."""
    numbers.setdefault("election_ticks_max", 7)
    return RaftCore(
        RaftConfig(MemberId(name), **numbers),
        random.Random(1),
        HardState(
            max(log, default=0) if term is None else term,
            None if vote is None else MemberId(vote),
            commit,
        ),
        Configuration(tuple(map(MemberId, voters)), learners=tuple(map(MemberId, learners))),
        entries_of(*log) if entries is None else entries,
        snapshot,
    )


def work(core: RaftCore) -> Ready:
    """Do all of a member's work on an instant disk; one Ready with everything in it."""
    ready = core.ready()
    core.persisted(ready.persist_term, ready.persist_index)
    if ready.committed:
        core.applied_to(ready.committed[-1].index)
    return ready


def messages_of(core: RaftCore) -> tuple[Message, ...]:
    ready = work(core)
    return (*ready.messages_now, *ready.messages_after_sync)


def only(messages: Sequence[Message], type_: MessageType) -> Message:
    """The one message of this type."""
    (message,) = [message for message in messages if message.type is type_]
    return message


def make_leader(name: str = "a", voters: Sequence[str] = ("a", "b", "c"), **options) -> RaftCore:
    """A leader that was just elected by everybody; its first messages are still to be taken."""
    core = make_core(name, voters, **options)
    for _ in range(6):
        core.tick()
    work(core)
    others = [other for other in voters if other != name]
    term = core.term + 1
    for other in others:
        core.step(Message(MessageType.PRE_VOTE_RESPONSE, other, name, term))
    work(core)
    for other in others:
        core.step(Message(MessageType.VOTE_RESPONSE, other, name, term))
    assert core.is_leader
    return core


class Cluster:
    def __init__(self, *cores: RaftCore) -> None:
        self.cores = {core.status().member_id: core for core in cores}
        self.network: list[Message] = []
        self.cut: set[str] = set()
        """Members that neither send nor receive."""
        self.delivered: list[Message] = []
        self.applied: dict[str, list[bytes]] = {name: [] for name in self.cores}
        self.readies: list[tuple[str, Ready]] = []

    def settle(self, until: Callable[[], bool] = lambda: False) -> None:
        """Work and deliver until nobody has anything to do, or `until` is true after a delivery."""
        for _ in range(TURNS_MAX):
            for name, core in self.cores.items():
                if core.has_ready():
                    ready = work(core)
                    self.readies.append((name, ready))
                    self.network += (*ready.messages_now, *ready.messages_after_sync)
                    self.applied[name] += [entry.data for entry in ready.committed if entry.data]
            arriving, self.network = self.network, []
            for message in arriving:
                if not {message.sender, message.receiver} & self.cut:
                    self.delivered.append(message)
                    self.cores[message.receiver].step(message)
                    if until():
                        return
            if not arriving and not any(core.has_ready() for core in self.cores.values()):
                return
        raise AssertionError(f"not at rest after {TURNS_MAX} turns")

    def elect(self, name: str) -> RaftCore:
        """Let `name` campaign while the others have heard nobody for long."""
        for core in self.cores.values():
            if core.status().member_id not in self.cut and not core.is_leader:
                for _ in range(6):
                    core.tick()
                core.ready()
        for _ in range(6):
            self.cores[name].tick()
        self.settle()
        assert self.cores[name].is_leader
        return self.cores[name]

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            for core in self.cores.values():
                core.tick()
            self.settle()


@pytest.fixture
def core() -> Callable[..., RaftCore]:
    return make_core


@pytest.fixture
def leader() -> Callable[..., RaftCore]:
    return make_leader


@pytest.fixture
def cluster() -> Callable[..., Cluster]:
    """`cluster("a", "b", "c")` with empty logs, or `cluster(core, core, …)`."""

    def start(*members: str | RaftCore) -> Cluster:
        names = [member for member in members if isinstance(member, str)]
        return Cluster(
            *(make_core(member, names) if isinstance(member, str) else member for member in members)
        )

    return start


class Toolbox:
    """The functions above, for test modules that cannot import this file."""

    entries_of = staticmethod(entries_of)
    messages_of = staticmethod(messages_of)
    only = staticmethod(only)
    work = staticmethod(work)


@pytest.fixture
def raft() -> type[Toolbox]:
    return Toolbox
