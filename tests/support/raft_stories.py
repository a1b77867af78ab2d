"""Random stories: whole clusters on a network that loses, doubles, reorders and cuts, with crashes
that take back everything not synced, snapshots that overtake the log, and masters that come and go.

Each seed is one story: phase 1 does harm and checks safety after every step (`raft_invariants`),
phase 2 heals everything and checks that the cluster comes to one log again.
"""

import contextlib
import random
from collections import deque

from support.raft_disks import Machine
from support.raft_invariants import InvariantWatch, Observed

from essaim_master.raft import membership, quorum
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
    Message,
    Ready,
    SnapshotMetadata,
)
from essaim_shared.ids import MemberId

HEALING_TURNS_MAX = 200
NETWORK_MESSAGES_MAX = 100
STORY_LINES = 40
STEPS_BETWEEN_FULL_CHECKS = 400
MACHINES_MAX = 9


class Story:
    def __init__(self, seed: int, voter_count: int, *, has_churn: bool = False) -> None:
        """`has_churn`: masters come and go."""
        self.seed = seed
        self.rng = random.Random(seed)
        rng = self.rng
        voters = tuple(MemberId(f"m{number}") for number in range(voter_count))
        learners = (MemberId("learner"),) if rng.random() < 0.3 else ()
        self.configuration = Configuration(voters, learners=learners)
        self.network: list[Message] = []
        self.streams: list[tuple[MemberId, MemberId, SnapshotMetadata]] = []
        """Snapshots on their way: from, to, which."""
        self.cut: set[tuple[MemberId, MemberId]] = set()
        self.paused: set[MemberId] = set()
        """Members whose time stands still, as after a long pause of the process."""
        self.loss = rng.choice([0.0, 0.02, 0.1, 0.2])
        self.doubling = rng.choice([0.0, 0.1, 0.3])
        self.is_orderly = rng.random() < 0.3
        self.crash_chance = rng.choice([0.0, 0.001, 0.004, 0.015])
        self.crash_after_sync_chance = rng.choice([0.0, 0.0, 0.03])
        """The worst moment: its promises have just left, and must hold in its next life."""
        self.actions = [
            (self.deliver_some, 40),
            (self.take_ready, rng.choice([25, 40])),
            (self.complete_some_writes, rng.choice([8, 20, 30])),
            (self.tick, rng.choice([3, 8, 15])),
            (self.propose, rng.choice([1, 5])),
            (self.read, rng.choice([1, 3])),
            (self.cut_or_heal, rng.choice([0.1, 0.5])),
            (self.pause_or_resume, 0.2),
            (self.transfer, rng.choice([0, 0.3, 2])),
            (self.report_unreachable, rng.choice([0, 0.3])),
            (self.take_snapshot, rng.choice([0, 0.2, 2])),
            (self.move_stream, rng.choice([0.5, 5])),
            (self.change_members, rng.choice([0.2, 1, 3]) if has_churn else 0),
        ]
        self.weights = [weight for _, weight in self.actions]
        self.next_command = self.next_read = 0
        self.next_member = voter_count

        self.watch = InvariantWatch()
        self.commands: list[Entry] = []
        """The one history: entry i+1 as any member applied it."""
        self.steps = self.reads_served = self.installed = self.changes = 0
        self.lines: deque[str] = deque(maxlen=STORY_LINES)

        self.machines: dict[MemberId, Machine] = {}
        self.observed: dict[MemberId, Observed] = {}
        self.election_ticks = rng.choice([(6, 12), (2, 5), (2, 4)])
        for name in (*voters, *learners):
            self.add_machine(name, self.configuration)

    def add_machine(self, name: MemberId, configuration: Configuration) -> None:
        """All with the same election timeouts; each with bounds of its own."""
        rng = self.rng
        ticks_min, ticks_max = self.election_ticks
        config = RaftConfig(
            name,
            election_ticks_min=ticks_min,
            election_ticks_max=ticks_max,
            inflight_messages_max=rng.choice([1, 3, 128]),
            append_bytes_max=rng.choice([1, 60, 1 << 18]),
            committed_bytes_per_ready_max=rng.choice([1, 1 << 18]),
        )
        self.machines[name] = Machine(config, configuration)
        self.start(name)

    def start(self, name: MemberId) -> None:
        machine = self.machines[name]
        machine.start(random.Random(self.rng.random()))
        self.observed[name] = Observed(machine.core, machine.disk)

    def tell(self, step_count: int) -> None:
        """The whole story; on a failure its seed and its last events are printed."""
        is_told = False
        try:
            for _ in range(step_count):
                self.step()
            self.heal()
            is_told = True
        finally:
            if not is_told:
                print(f"seed {self.seed}; the last events:")
                print(*self.lines, sep="\n")

    # What happens

    def step(self) -> None:
        rng = self.rng
        name = rng.choice(list(self.machines))
        action, _ = rng.choices(self.actions, self.weights)[0]
        action(name)
        if rng.random() < self.crash_chance:
            self.crash(name)
        self.check(name)
        self.steps += 1
        if self.steps % STEPS_BETWEEN_FULL_CHECKS == 0:
            self.watch.full(self.observed)

    def tick(self, name: MemberId) -> None:
        if name not in self.paused:
            self.machines[name].core.tick()

    def pause_or_resume(self, name: MemberId) -> None:
        self.paused = {name} if self.rng.random() < 0.5 else set()

    def transfer(self, name: MemberId) -> None:
        core = self.machines[name].core
        target = self.rng.choice(self.configuration.voters)
        if core.is_leader and target != name:
            with contextlib.suppress(TransferRefused):
                core.transfer_leadership(target)

    def report_unreachable(self, name: MemberId) -> None:
        self.machines[name].core.report_unreachable(self.rng.choice(list(self.machines)))

    def deliver_some(self, _name: MemberId) -> None:
        for _ in range(self.rng.randint(1, 5)):
            self.deliver_one()

    def deliver_one(self) -> None:
        if not self.network:
            return
        rng = self.rng
        position = 0 if self.is_orderly else rng.randrange(len(self.network))
        message = self.network[position]
        if rng.random() >= self.doubling:
            self.network.pop(position)
        if rng.random() < self.loss or (message.sender, message.receiver) in self.cut:
            return
        self.lines.append(f"deliver {message}")
        self.machines[message.receiver].core.step(message)
        self.check(message.receiver)

    def send(self, messages: tuple[Message, ...]) -> None:
        self.network += messages
        for message in messages:
            self.watch.entries(message.log_term, message.entries)
        while len(self.network) > NETWORK_MESSAGES_MAX:
            self.network.pop(self.rng.randrange(len(self.network)))

    def take_ready(self, name: MemberId) -> None:
        machine = self.machines[name]
        core = machine.core
        if not core.has_ready():
            return
        ready = core.ready()
        self.lines.append(f"ready {name} {ready}")
        self.send(ready.messages_now)
        machine.writes.append(ready)
        for to, snapshot in ready.snapshot_to_send:
            newest = machine.disk.snapshot
            assert newest is not None
            assert newest.index >= snapshot.index
            self.streams.append((name, to, newest))
        self.apply(machine, ready)
        for read in ready.reads:
            assert read.index >= machine.reads.pop(read.context), f"stale read at {name}"
            self.reads_served += 1
        for context in ready.reads_refused:
            del machine.reads[context]

    def complete_some_writes(self, name: MemberId) -> None:
        self.complete_writes(name, self.rng.randint(1, 3))

    def complete_writes(self, name: MemberId, count: int) -> None:
        """Several Readies may share one sync; the last one's numbers are reported."""
        machine = self.machines[name]
        done = [machine.writes.popleft() for _ in range(min(count, len(machine.writes)))]
        for ready in done:
            self.write(machine, ready)
            self.send(ready.messages_after_sync)
        if any(ready.must_sync for ready in done):
            self.lines.append(f"synced {name} {done[-1].persist_term}/{done[-1].persist_index}")
            machine.core.persisted(done[-1].persist_term, done[-1].persist_index)
            if self.rng.random() < self.crash_after_sync_chance:
                self.crash(name)

    def write(self, machine: Machine, ready: Ready) -> None:
        machine.disk.write(ready)
        if ready.entries:
            term_before = machine.disk.term_at(ready.entries[0].index - 1)
            assert term_before is not None
            self.watch.entries(term_before, ready.entries)

    def crash(self, name: MemberId) -> None:
        """Some of the writes under way had reached the disk; nobody was told."""
        machine = self.machines[name]
        for _ in range(self.rng.randint(0, len(machine.writes))):
            self.write(machine, machine.writes.popleft())
        self.streams = [stream for stream in self.streams if stream[0] != name]
        arriving = [snapshot for _, to, snapshot in self.streams if to == name]
        if arriving and machine.core.needs_snapshot(arriving[0]) and self.rng.random() < 0.5:
            # The snapshot is on the disk, and the log there has not begun anew yet.
            machine.disk.snapshot = arriving[0]
        self.lines.append(f"crash {name}: {machine.disk.hard_state}, to {machine.disk.last_index}")
        self.start(name)

    def propose(self, name: MemberId) -> None:
        count = self.rng.randint(1, 4)
        commands = [f"{self.next_command + number}".encode() for number in range(count)]
        self.next_command += count
        with contextlib.suppress(NotLeader, ProposalDropped):
            self.machines[name].core.propose(commands)

    def read(self, name: MemberId) -> None:
        self.next_read += 1
        self.machines[name].reads[self.next_read] = len(self.watch.committed)
        self.machines[name].core.read_index(self.next_read)

    def cut_or_heal(self, _name: MemberId) -> None:
        if self.rng.random() < 0.6:
            self.cut.clear()
            return
        names = list(self.machines)
        one, other = self.rng.choice(names), self.rng.choice(names)
        if self.rng.random() < 0.5:
            self.cut |= {(one, other)}
        else:
            self.cut |= {(one, name) for name in names} | {(name, one) for name in names}

    # Snapshots

    def take_snapshot(self, name: MemberId) -> None:
        """Of what is applied and durable; some entries before it stay, for slow followers."""
        machine = self.machines[name]
        newest = machine.disk.snapshot
        index = machine.applied
        if index == 0 or machine.writes or (newest is not None and newest.index >= index):
            return
        term = machine.disk.term_at(index)
        assert term is not None
        snapshot = SnapshotMetadata(index, term, machine.core.configuration_at(index))
        first_kept = self.rng.randint(machine.core.log.first_index, index + 1)
        self.lines.append(f"snapshot {name} {snapshot}, kept from {first_kept}")
        machine.disk.compact(snapshot, first_kept)
        machine.core.compacted(snapshot, first_kept)

    def move_stream(self, _name: MemberId) -> None:
        """It arrives, or breaks; and its sender may not learn that it arrived."""
        if not self.streams:
            return
        sender, to, snapshot = self.streams.pop(self.rng.randrange(len(self.streams)))
        has_arrived = (sender, to) not in self.cut and self.rng.random() >= self.loss
        is_said = has_arrived and self.rng.random() >= self.loss
        self.lines.append(f"stream {sender} to {to} {snapshot}, {has_arrived}, {is_said}")
        if has_arrived:
            self.install(to, snapshot)
        self.machines[sender].core.report_snapshot(to, is_said)

    def install(self, name: MemberId, snapshot: SnapshotMetadata) -> None:
        """The driver's part: earlier writes first, then the new beginning, then the core."""
        machine = self.machines[name]
        self.complete_writes(name, len(machine.writes))
        if machine.core.install_snapshot(snapshot):
            machine.disk.begin_anew(snapshot)
            machine.applied = snapshot.index
            self.installed += 1
        self.check(name)

    # Members

    def change_members(self, name: MemberId) -> None:
        core = self.machines[name].core
        if not core.is_leader:
            return
        configuration = core.status().configuration
        change: membership.ConfigurationChange
        kind = self.rng.randrange(3)
        if kind == 0 and len(self.machines) < MACHINES_MAX:
            change = membership.AddLearner(MemberId(f"m{self.next_member}"))
        elif kind == 1 and configuration.learners:
            change = membership.PromoteLearner(self.rng.choice(configuration.learners))
        else:
            change = membership.RemoveMember(self.rng.choice(quorum.members(configuration)))
        try:
            core.propose_configuration(change)
        except (ProposalDropped, MembershipRefused):
            return
        self.lines.append(f"change by {name}: {change}")
        self.changes += 1
        if isinstance(change, membership.AddLearner):
            self.next_member += 1
            self.add_machine(change.member, NO_CONFIGURATION)

    # What must hold

    def check(self, name: MemberId) -> None:
        self.watch.step(self.observed, name)

    def apply(self, machine: Machine, ready: Ready) -> None:
        """State machine safety: everybody applies the same entries, each once, in order."""
        for entry in ready.committed:
            machine.applied += 1
            assert entry.index == machine.applied, f"{entry} after {machine.applied - 1}"
            if entry.index > len(self.commands):
                self.commands.append(entry)
            assert self.commands[entry.index - 1] == entry
        if ready.committed:
            machine.core.applied_to(machine.applied)

    # Healing

    def heal(self) -> None:
        """Stop all harm; the cluster must agree on one log that takes a new command."""
        self.cut.clear()
        self.loss = self.doubling = self.crash_after_sync_chance = 0.0
        self.is_orderly = True
        final = b"final"
        for _ in range(HEALING_TURNS_MAX):
            for machine in self.machines.values():
                machine.core.tick()
            self.settle()
            if self.is_agreed(final):
                self.watch.full(self.observed)
                return
            self.try_propose(final)
        raise AssertionError(f"no agreement {HEALING_TURNS_MAX} ticks after the last harm")

    def settle(self) -> None:
        names = list(self.machines)
        for _ in range(NETWORK_MESSAGES_MAX):
            for name in names:
                self.take_ready(name)
                self.complete_writes(name, 1000)
            for _ in range(len(self.streams)):
                self.move_stream(names[0])
            arriving, self.network = self.network, []
            for message in arriving:
                self.machines[message.receiver].core.step(message)
            for name in names:
                self.check(name)
            if not self.network and not any(m.core.has_ready() for m in self.machines.values()):
                return

    def try_propose(self, command: bytes) -> None:
        for machine in self.machines.values():
            if machine.core.is_leader:
                with contextlib.suppress(ProposalDropped):
                    machine.core.propose([command])

    def is_agreed(self, command: bytes) -> bool:
        """All members of the leader's configuration hold and applied one log with `command`."""
        if command not in [entry.data for entry in self.commands[-5:]]:
            return False
        last = len(self.watch.committed)
        leading = [machine.core for machine in self.machines.values() if machine.core.is_leader]
        return any(
            all(
                self.machines[name].disk.last_index == last and self.machines[name].applied == last
                for name in quorum.members(core.status().configuration)
            )
            for core in leading
        )
