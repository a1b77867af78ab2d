"""Whole clusters on a network that loses, doubles, reorders and cuts, with crashes that take back
everything not synced. The safety properties of the paper (figure 3) are checked after every step.

Each seed is one story: phase 1 does harm and checks safety, phase 2 heals everything and checks
that the cluster comes to one log again. A failure prints the seed and the last events.
"""

import contextlib
import random
from collections import deque

import pytest

from essaim_master.raft import quorum
from essaim_master.raft.config import RaftConfig
from essaim_master.raft.core import RaftCore
from essaim_master.raft.errors import NotLeader, ProposalDropped
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    HardState,
    Message,
    Ready,
    Role,
)
from essaim_shared.ids import MemberId

SEEDS_PER_SIZE = {1: 20, 2: 40, 3: 120, 5: 80}
STEPS_OF_HARM = 4000
HEALING_TURNS_MAX = 200
NETWORK_MESSAGES_MAX = 100
STORY_LINES = 40


class Machine:
    """One member, its disk, and the writes that the disk has not finished."""

    def __init__(self, config: RaftConfig, configuration: Configuration) -> None:
        self.config = config
        self.configuration = configuration
        self.hard_state = HardState()
        self.entries: list[Entry] = []
        self.writes: deque[Ready] = deque()
        self.core: RaftCore
        self.reads: dict[int, int] = {}
        """What each read that waits here must at least see."""
        self.starts = 0

    def start(self, rng: random.Random) -> None:
        self.starts += 1
        self.writes.clear()
        self.reads.clear()
        self.core = RaftCore(
            self.config, rng, self.hard_state, self.configuration, tuple(self.entries)
        )

    def write(self, ready: Ready) -> None:
        if ready.entries:
            del self.entries[ready.entries[0].index - 1 :]
            self.entries += ready.entries
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state


class Story:
    def __init__(self, seed: int, voter_count: int) -> None:
        self.rng = random.Random(seed)
        rng = self.rng
        voters = tuple(MemberId(f"m{number}") for number in range(voter_count))
        learners = (MemberId("learner"),) if rng.random() < 0.3 else ()
        self.configuration = Configuration(voters, learners=learners)
        self.network: list[Message] = []
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
            self.deliver_some,
            self.take_ready,
            self.complete_some_writes,
            self.tick,
            self.propose,
            self.read,
            self.cut_or_heal,
            self.pause_or_resume,
            self.transfer,
            self.report_unreachable,
        ]
        self.weights = [
            40,
            rng.choice([25, 40]),
            rng.choice([8, 20, 30]),
            rng.choice([3, 8, 15]),
            rng.choice([1, 5]),
            rng.choice([1, 3]),
            rng.choice([0.1, 0.5]),
            0.2,
            rng.choice([0, 0.3, 2]),
            rng.choice([0, 0.3]),
        ]
        self.next_command = 0
        self.next_read = 0

        self.leaders: dict[int, MemberId] = {}
        self.committed: list[Entry] = []
        """The one history: entry i+1 as any member saw it committed."""
        self.known: dict[tuple[int, int], tuple[int, bytes]] = {}
        """(index, term) → (term of the entry before, data)."""
        self.reads_served = 0
        self.lines: deque[str] = deque(maxlen=STORY_LINES)

        self.machines: dict[MemberId, Machine] = {}
        self.add_machines((*voters, *learners))

    def add_machines(self, names: tuple[MemberId, ...]) -> None:
        """All with the same election timeouts; each with bounds of its own."""
        rng = self.rng
        ticks_min, ticks_max = rng.choice([(6, 12), (2, 5), (2, 4)])
        for name in names:
            config = RaftConfig(
                name,
                election_ticks_min=ticks_min,
                election_ticks_max=ticks_max,
                inflight_messages_max=rng.choice([1, 3, 128]),
                append_bytes_max=rng.choice([1, 60, 1 << 18]),
                committed_bytes_per_ready_max=rng.choice([1, 1 << 18]),
            )
            self.machines[name] = Machine(config, self.configuration)
            self.machines[name].start(random.Random(rng.random()))

    # What happens

    def step(self) -> None:
        rng = self.rng
        name = rng.choice(list(self.machines))
        action = rng.choices(self.actions, self.weights)[0]
        action(name)
        if rng.random() < self.crash_chance:
            self.crash(name)
        self.check(name)

    def tick(self, name: MemberId) -> None:
        if name not in self.paused:
            self.machines[name].core.tick()

    def pause_or_resume(self, name: MemberId) -> None:
        self.paused = {name} if self.rng.random() < 0.5 else set()

    def transfer(self, name: MemberId) -> None:
        target = self.rng.choice(self.configuration.voters)
        if self.machines[name].core.is_leader and target != name:
            self.machines[name].core.transfer_leadership(target)

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
            self.check_entries(message.log_term, message.entries)
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
        self.check_committed(ready)
        if ready.committed:
            core.applied_to(ready.committed[-1].index)
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
            machine.write(ready)
            self.check_written(machine, ready)
            self.send(ready.messages_after_sync)
        if any(ready.must_sync for ready in done):
            self.lines.append(f"synced {name} {done[-1].persist_term}/{done[-1].persist_index}")
            machine.core.persisted(done[-1].persist_term, done[-1].persist_index)
            if self.rng.random() < self.crash_after_sync_chance:
                self.crash(name)

    def crash(self, name: MemberId) -> None:
        """Some of the writes under way had reached the disk; nobody was told."""
        machine = self.machines[name]
        for _ in range(self.rng.randint(0, len(machine.writes))):
            ready = machine.writes.popleft()
            machine.write(ready)
            self.check_written(machine, ready)
        self.lines.append(f"crash {name}: {machine.hard_state}, {len(machine.entries)} entries")
        machine.start(random.Random(self.rng.random()))

    def propose(self, name: MemberId) -> None:
        count = self.rng.randint(1, 4)
        commands = [f"{self.next_command + number}".encode() for number in range(count)]
        self.next_command += count
        try:
            self.machines[name].core.propose(commands)
        except (NotLeader, ProposalDropped):
            return

    def read(self, name: MemberId) -> None:
        self.next_read += 1
        self.machines[name].reads[self.next_read] = len(self.committed)
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

    # What must hold

    def check(self, name: MemberId) -> None:
        core = self.machines[name].core
        if core.role is Role.LEADER and self.leaders.get(core.term) != name:
            assert core.term not in self.leaders, f"two leaders in term {core.term}"
            self.leaders[core.term] = name
            self.check_leader_is_complete(core)
        log = core.log
        if log.commit > len(self.committed):
            news = log.slice(len(self.committed) + 1, log.commit, 1 << 40)
            self.committed += news
        self.check_committed_is_durable()

    def check_leader_is_complete(self, core: RaftCore) -> None:
        log = core.log
        for entry in self.committed:
            assert log.term_at(entry.index) == entry.term, f"leader lacks committed {entry}"

    def check_committed_is_durable(self) -> None:
        if not self.committed:
            return
        last = self.committed[-1]
        holders = [
            name
            for name, machine in self.machines.items()
            if len(machine.entries) >= last.index
            and machine.entries[last.index - 1].term == last.term
        ]
        assert quorum.has_quorum(self.configuration, holders), (
            f"committed {last} is on the disks of {holders} only"
        )

    def check_written(self, machine: Machine, ready: Ready) -> None:
        if ready.entries:
            first = ready.entries[0].index
            self.check_entries(machine.entries[first - 2].term if first > 1 else 0, ready.entries)

    def check_entries(self, term_before: int, entries: tuple[Entry, ...]) -> None:
        """Log matching, by induction: one (index, term) means one entry and one predecessor.

        Of what was sent or is on a disk: entries that a crash took from a cluster of one before
        anybody saw them may come again with other contents.
        """
        for entry in entries:
            facts = (term_before, entry.data)
            seen = self.known.setdefault((entry.index, entry.term), facts)
            assert seen == facts, f"{entry} differs between logs"
            term_before = entry.term

    def check_committed(self, ready: Ready) -> None:
        """State machine safety: everybody applies the same entry at an index."""
        for entry in ready.committed:
            assert self.committed[entry.index - 1] == entry

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
                return
            self.try_propose(final)
        raise AssertionError(f"no agreement {HEALING_TURNS_MAX} ticks after the last harm")

    def settle(self) -> None:
        names = list(self.machines)
        for _ in range(NETWORK_MESSAGES_MAX):
            for name in names:
                self.take_ready(name)
                self.complete_writes(name, 1000)
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
        if command not in [entry.data for entry in self.committed[-5:]]:
            return False
        last = len(self.committed)
        return all(
            machine.entries == self.committed and machine.core.status().applied == last
            for machine in self.machines.values()
        )


@pytest.mark.parametrize("voter_count", SEEDS_PER_SIZE)
def test_safety_and_recovery(voter_count: int) -> None:
    """Election safety, log matching, leader completeness, state machine safety, durability of what
    is committed, linearizable reads (paper, figure 3; dissertation 6.4)."""
    entries = reads = crashes = terms = 0
    seeds = SEEDS_PER_SIZE[voter_count]
    for seed in range(seeds):
        story = Story(seed, voter_count)
        is_told = False
        try:
            for _ in range(STEPS_OF_HARM):
                story.step()
            story.heal()
            is_told = True
        finally:
            if not is_told:
                print(f"seed {seed}, {voter_count} voters; the last events:")
                print(*story.lines, sep="\n")
        entries += len(story.committed)
        reads += story.reads_served
        crashes += sum(machine.starts - 1 for machine in story.machines.values())
        terms += len(story.leaders)
    print(f"{entries} entries, {reads} reads, {crashes} crashes, {terms} terms with a leader")
    assert entries > 10 * seeds
    assert reads > seeds
    assert crashes > seeds
    assert terms > seeds
