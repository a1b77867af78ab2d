"""Raft as readable stories: each file in testdata/raft is a script with what must come of it.

A line `$ command` is carried out on a small cluster without clock, disk or network; the lines under
it are its expected output. `ESSAIM_REWRITE=1 pytest tests/scenarios` writes the output that came
instead; read the diff before you believe it. The commands are the methods `do_…` below.

Every member waits exactly `election_ticks_min` (6) ticks before it campaigns, so a script decides
who is first. Syncs succeed at once, unless the member was added with `slow-disk`: then
`sync` completes them one by one, and `restart` forgets the rest.
"""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support.raft_disks import Machine
from support.text_scripts import check_script, played

from essaim_master.raft import configurations, membership
from essaim_master.raft.config import RaftConfig
from essaim_master.raft.errors import (
    MembershipRefused,
    NotLeader,
    ProposalDropped,
    TransferRefused,
)
from essaim_master.raft.log import NO_CONFIGURATION
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Ready,
    Role,
    SnapshotMetadata,
)
from essaim_shared.ids import MemberId

SCRIPTS = sorted((Path(__file__).parent / "testdata" / "raft").glob("*.txt"))
TURNS_MAX = 1000
"""A script that does not come to rest by then never will."""


class PunctualRandom(random.Random):
    """Draws the lowest number of every range."""

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return start if stop is not None else 0


class ScriptedMachine(Machine):
    def __init__(self, config: RaftConfig, configuration: Configuration, slow_disk: bool) -> None:
        super().__init__(config, configuration)
        self.slow_disk = slow_disk
        self.start(PunctualRandom())


class Script:
    def __init__(self) -> None:
        self.machines: dict[str, ScriptedMachine] = {}
        self.network: list[Message] = []
        self.held: list[Message] = []
        self.output: list[str] = []

    def run(self, line: str) -> list[str]:
        """Carry out one command; its output."""
        self.output = []
        name, *words = line.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        arguments = [word for word in words if "=" not in word]
        getattr(self, "do_" + name.replace("-", "_"))(arguments, options)
        return self.output

    def say(self, text: str) -> None:
        self.output.append(text)

    # Making and breaking

    def do_add_nodes(self, arguments: list[str], options: dict[str, str]) -> None:
        """add-nodes 1 2 3 [learners=4] [inflight=N] [append-bytes=N] [uncommitted-bytes=N]
        [slow-disk=1,2]: a fresh cluster"""
        self.machines = {}
        self.network = []
        learners = tuple(filter(None, options.get("learners", "").split(",")))
        configuration = Configuration(
            tuple(MemberId(name) for name in arguments),
            learners=tuple(MemberId(name) for name in learners),
        )
        for name in (*arguments, *learners):
            config = RaftConfig(
                MemberId(name),
                inflight_messages_max=int(options.get("inflight", "128")),
                append_bytes_max=int(options.get("append-bytes", "262144")),
                uncommitted_bytes_max=int(options.get("uncommitted-bytes", "65536")),
            )
            slow_disk = name in options.get("slow-disk", "").split(",")
            self.machines[name] = ScriptedMachine(config, configuration, slow_disk)

    def do_join(self, arguments: list[str], options: dict[str, str]) -> None:
        """join 4…: fresh machines that know nobody; `change 1 add 4` makes a member of each."""
        for name in arguments:
            config = RaftConfig(MemberId(name))
            self.machines[name] = ScriptedMachine(config, NO_CONFIGURATION, slow_disk=False)

    def do_set_disk(self, arguments: list[str], options: dict[str, str]) -> None:
        """set-disk 1 log=1,1,2 [term=2] [commit=0]: the terms of its entries; then start afresh."""
        machine = self.machines[arguments[0]]
        terms = [int(term) for term in filter(None, options["log"].split(","))]
        machine.disk.entries = [
            Entry(term, index, EntryKind.NORMAL, f"t{term}".encode())
            for index, term in enumerate(terms, 1)
        ]
        term = int(options.get("term", max(terms, default=0)))
        machine.disk.hard_state = HardState(term, None, int(options.get("commit", "0")))
        machine.start(PunctualRandom())

    def do_restart(self, arguments: list[str], options: dict[str, str]) -> None:
        """restart 1: crash, lose what was not synced, start from the disk."""
        self.machines[arguments[0]].start(PunctualRandom())
        self.do_status(arguments, options)

    # Events

    def do_tick(self, arguments: list[str], options: dict[str, str]) -> None:
        """tick 1 [times]"""
        name, times = arguments[0], int(arguments[1]) if len(arguments) > 1 else 1
        before = self.describe_role(name)
        for _ in range(times):
            self.machines[name].core.tick()
        self.say_change(name, before)

    def do_campaign(self, arguments: list[str], options: dict[str, str]) -> None:
        """campaign 1: tick until it campaigns by itself."""
        core = self.machines[arguments[0]].core
        before = self.describe_role(arguments[0])
        was_following = core.role is Role.FOLLOWER
        for _ in range(self.machines[arguments[0]].config.election_ticks_min):
            core.tick()
            if was_following and core.role is not Role.FOLLOWER:
                break
        self.say_change(arguments[0], before)

    def do_silence(self, arguments: list[str], options: dict[str, str]) -> None:
        """silence 3…: they hear no leader for so long that they may vote again; what they then ask
        the others is lost."""
        for name in arguments:
            self.do_campaign([name], {})
            ready = self.machines[name].core.ready()
            assert not ready.must_sync
            for context in ready.reads_refused:
                self.say(f"  read {context} refused")

    def do_propose(self, arguments: list[str], options: dict[str, str]) -> None:
        """propose 1 text…"""
        commands = [text.encode() for text in arguments[1:]]
        try:
            indexes = self.machines[arguments[0]].core.propose(commands)
        except (NotLeader, ProposalDropped) as error:
            self.say(f"{type(error).__name__}: {error}")
            return
        self.say(f"at {indexes.start}..{indexes.stop - 1}")

    def do_read(self, arguments: list[str], options: dict[str, str]) -> None:
        """read 1 context"""
        self.machines[arguments[0]].core.read_index(int(arguments[1]))

    def do_transfer(self, arguments: list[str], options: dict[str, str]) -> None:
        """transfer 1 to"""
        try:
            self.machines[arguments[0]].core.transfer_leadership(MemberId(arguments[1]))
        except (NotLeader, TransferRefused) as error:
            self.say(f"{type(error).__name__}: {error}")

    def do_change(self, arguments: list[str], options: dict[str, str]) -> None:
        """change 1 add|promote|remove 4"""
        name, kind, member = arguments
        changes: dict[str, Callable[[MemberId], membership.ConfigurationChange]] = {
            "add": membership.AddLearner,
            "promote": membership.PromoteLearner,
            "remove": membership.RemoveMember,
        }
        before = self.describe_role(name)
        try:
            index = self.machines[name].core.propose_configuration(changes[kind](MemberId(member)))
        except (NotLeader, ProposalDropped, MembershipRefused) as error:
            self.say(f"{type(error).__name__}: {error}")
            return
        self.say(f"at {index}")
        self.say_change(name, before)

    # Snapshots

    def do_compact(self, arguments: list[str], options: dict[str, str]) -> None:
        """compact 1 5 [keep=3]: a snapshot of what 1 applied up to entry 5; the log keeps the
        entries from 3 on."""
        machine, index = self.machines[arguments[0]], int(arguments[1])
        term = machine.core.log.term_at(index)
        assert term is not None
        snapshot = SnapshotMetadata(index, term, machine.core.configuration_at(index))
        first_kept = int(options.get("keep", index + 1))
        machine.disk.compact(snapshot, first_kept)
        machine.core.compacted(snapshot, first_kept)
        self.say(f"{arguments[0]} snapshot {term}/{index}, log from {machine.core.log.first_index}")

    def do_stream(self, arguments: list[str], options: dict[str, str]) -> None:
        """stream 1 3 [arrives=no|disk] [reported=no]: 1's newest snapshot has gone to 3, or not, or
        is on its disk and nobody there knows it yet."""
        sender, receiver = (self.machines[name] for name in arguments)
        snapshot = sender.disk.snapshot
        assert snapshot is not None
        if options.get("arrives") == "disk":
            receiver.disk.snapshot = snapshot
            return
        has_arrived = options.get("arrives") != "no"
        if has_arrived:
            before = self.describe_role(arguments[1])
            is_installed = receiver.core.install_snapshot(snapshot)
            if is_installed:
                receiver.disk.begin_anew(snapshot)
            at = f"{snapshot.term}/{snapshot.index}"
            self.say(
                f"{arguments[1]} {'begins anew' if is_installed else 'needs no snapshot'} {at}"
            )
            self.say_change(arguments[1], before)
        if options.get("reported") != "no":
            sender.core.report_snapshot(MemberId(arguments[1]), has_arrived)

    def do_unreachable(self, arguments: list[str], options: dict[str, str]) -> None:
        """unreachable 1 member"""
        self.machines[arguments[0]].core.report_unreachable(MemberId(arguments[1]))

    # Work

    def do_ready(self, arguments: list[str], options: dict[str, str]) -> None:
        """ready 1…: do the work of one turn."""
        for name in arguments:
            self.take_ready(name)

    def take_ready(self, name: str) -> None:
        machine = self.machines[name]
        if not machine.core.has_ready():
            self.say(f"{name} has nothing to do")
            return
        ready = machine.core.ready()
        self.say_ready(name, ready)
        self.network += ready.messages_now
        machine.writes.append(ready)
        if not machine.slow_disk:
            self.complete_sync(machine)
        if ready.committed:
            machine.core.applied_to(ready.committed[-1].index)

    def complete_sync(self, machine: Machine) -> None:
        ready = machine.writes.popleft()
        machine.disk.write(ready)
        self.network += ready.messages_after_sync
        if ready.must_sync:
            machine.core.persisted(ready.persist_term, ready.persist_index)

    def do_sync(self, arguments: list[str], options: dict[str, str]) -> None:
        """sync 1: complete its oldest write."""
        machine = self.machines[arguments[0]]
        ready = machine.writes[0]
        self.say(f"{arguments[0]} persisted {ready.persist_term}/{ready.persist_index}")
        for message in ready.messages_after_sync:
            self.say(f"  {describe(message)}")
        self.complete_sync(machine)

    def do_deliver(self, arguments: list[str], options: dict[str, str]) -> None:
        """deliver 1… [from=2]: hand over what is on its way to these members."""
        for message in self.take_messages(arguments, options):
            before = self.describe_role(message.receiver)
            self.say(describe(message))
            self.machines[message.receiver].core.step(message)
            self.say_change(message.receiver, before)

    def do_drop(self, arguments: list[str], options: dict[str, str]) -> None:
        """drop 1… [from=2]: lose it instead."""
        for message in self.take_messages(arguments, options):
            self.say(f"lost: {describe(message)}")

    def do_repeat(self, arguments: list[str], options: dict[str, str]) -> None:
        """repeat 1… [from=2]: what is on its way will come twice, the second time last of all."""
        taken = self.take_messages(arguments, options)
        self.network += [*taken, *taken]
        self.say(f"{len(taken)} doubled")

    def do_hold(self, arguments: list[str], options: dict[str, str]) -> None:
        """hold 1… [from=2]: let everything sent from now on arrive before it (`release`)."""
        self.held = self.take_messages(arguments, options)
        for message in self.held:
            self.say(f"held: {describe(message)}")

    def do_release(self, arguments: list[str], options: dict[str, str]) -> None:
        """release: what was held is on its way again."""
        self.network += self.held

    def take_messages(self, to: list[str], options: dict[str, str]) -> list[Message]:
        senders = options.get("from", ",".join(self.machines)).split(",")
        taken = [m for m in self.network if m.receiver in to and m.sender in senders]
        self.network = [m for m in self.network if m not in taken]
        return taken

    def do_stabilize(self, arguments: list[str], options: dict[str, str]) -> None:
        """stabilize [1 2…] [show=no]: work and deliver among these members until all is quiet.

        Members with a slow disk are synced too. Messages to the others stay on their way.
        """
        names = arguments or list(self.machines)
        kept = len(self.output)
        for _ in range(TURNS_MAX):
            busy = [name for name in names if self.machines[name].core.has_ready()]
            for name in busy:
                self.take_ready(name)
            unsynced = [name for name in names if self.machines[name].writes]
            for name in unsynced:
                self.do_sync([name], {})
            arriving = [m for m in self.network if m.receiver in names]
            self.do_deliver(names, {})
            if not busy and not arriving and not unsynced:
                break
        else:
            raise AssertionError(f"not at rest after {TURNS_MAX} turns")
        if options.get("show") == "no":
            del self.output[kept:]

    # Showing

    def do_status(self, arguments: list[str], options: dict[str, str]) -> None:
        """status [1…]"""
        for name in arguments or self.machines:
            status = self.machines[name].core.status()
            self.say(
                f"{self.describe_role(name)}, commit {status.commit}, last {status.last_index}"
            )
            for member, row in status.progress.items():
                self.say(f"  {member}: {row.state.value} match {row.match} next {row.next}")

    def do_members(self, arguments: list[str], options: dict[str, str]) -> None:
        """members [1…]: the configuration in effect."""
        for name in arguments or self.machines:
            self.say(f"{name}: {describe_members(self.machines[name].core.status().configuration)}")

    def do_log(self, arguments: list[str], options: dict[str, str]) -> None:
        """log [1…]: the log in memory, as term/index."""
        for name in arguments or self.machines:
            log = self.machines[name].core.log
            entries = log.slice(log.first_index, log.last_index, 1 << 30)
            self.say(f"{name}: {describe_entries(entries)} commit {log.commit}")

    def describe_role(self, name: str) -> str:
        core = self.machines[name].core
        leader = f", leader {core.leader}" if core.leader else ""
        return f"{name} {core.role.name.lower()} in term {core.term}{leader}"

    def say_change(self, name: str, before: str) -> None:
        after = self.describe_role(name)
        if after != before:
            self.say(f"  now {after}")

    def say_ready(self, name: str, ready: Ready) -> None:
        self.say(f"{name} works{' (sync)' if ready.must_sync else ''}")
        if ready.hard_state is not None:
            state = ready.hard_state
            self.say(f"  state: term {state.term} vote {state.vote} commit {state.commit}")
        if ready.entries:
            self.say(f"  write: {describe_entries(ready.entries)}")
        for message in ready.messages_now:
            self.say(f"  {describe(message)}")
        for message in ready.messages_after_sync:
            self.say(f"  after sync: {describe(message)}")
        for member, snapshot in ready.snapshot_to_send:
            self.say(f"  stream to {member}: snapshot {snapshot.term}/{snapshot.index}")
        if ready.committed:
            self.say(f"  apply: {describe_entries(ready.committed)}")
        for read in ready.reads:
            self.say(f"  read {read.context} at {read.index}")
        for context in ready.reads_refused:
            self.say(f"  read {context} refused")


def describe_entries(entries: tuple[Entry, ...]) -> str:
    words = []
    for entry in entries:
        match entry.kind:
            case EntryKind.NO_OP:
                text = "no-op"
            case EntryKind.CONFIGURATION:
                text = describe_members(configurations.decode(entry.data))
            case _:
                text = entry.data.decode()[:12]
        words.append(f"{entry.term}/{entry.index} {text}")
    return "[" + ", ".join(words) + "]"


def describe_members(configuration: Configuration) -> str:
    """Voters, and learners behind a plus: `1 2 3 + 4`."""
    learners = f" + {' '.join(configuration.learners)}" if configuration.learners else ""
    return " ".join(configuration.voters) + learners


def describe(message: Message) -> str:
    """One line; positions in the log as term/index."""
    words = [f"{message.sender}→{message.receiver}"]
    words.append(message.type.name.lower().replace("_", "-"))
    words.append(f"t{message.term}")
    at = f"{message.log_term}/{message.index}"
    match message.type:
        case MessageType.PRE_VOTE_REQUEST | MessageType.VOTE_REQUEST:
            words.append(f"log ends {at}")
        case MessageType.PRE_VOTE_RESPONSE | MessageType.VOTE_RESPONSE:
            words.append("no" if message.reject else "yes")
        case MessageType.APPEND_REQUEST:
            words.append(f"after {at} {describe_entries(message.entries)} commit {message.commit}")
        case MessageType.APPEND_RESPONSE if message.reject:
            words.append(f"refuses {message.index}, try {message.log_term}/{message.hint}")
        case MessageType.APPEND_RESPONSE:
            words.append(f"has {message.index}")
        case MessageType.HEARTBEAT_REQUEST:
            words.append(f"commit {message.commit} round {message.round}")
        case MessageType.HEARTBEAT_RESPONSE:
            words.append(f"round {message.round}")
        case MessageType.SNAPSHOT_REQUEST:
            words.append(f"snapshot {at}")
        case MessageType.READ_INDEX_REQUEST:
            words.append(f"read {message.context}")
        case MessageType.READ_INDEX_RESPONSE:
            words.append(f"read {message.context}")
            words.append("refused" if message.reject else f"at {message.index}")
        case _:
            pass
    if message.force:
        words.append("forced")
    return " ".join(words)


def replay(text: str) -> str:
    """The script with the output that came, in place of the one it held."""
    script = Script()
    return played(text, script.run)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    check_script(path, replay)


def test_a_wrong_expectation_is_noticed() -> None:
    """The runner itself can fail: an altered line does not survive the replay."""
    script = "$ add-nodes 1\n$ campaign 1\n  now 1 leader in term 1, leader 1\n"
    assert replay(script) == script
    altered = script.replace("term 1", "term 2")
    assert replay(altered) != altered
