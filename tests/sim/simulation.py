"""One seed: a whole cluster on virtual time, first under faults, then healed.

Phase one asks for safety: whatever goes wrong, no check of the witness may fail. Phase two heals
all faults and asks for life: a leader within bounds, every master caught up, reads and writes
through each of them; then every answer that a client got is held against a replay of the log.
"""

import random
from collections.abc import Coroutine
from typing import Any

import msgspec
from sim.churn import Churn
from sim.clients import SimulatedClient
from sim.faults import FaultOptions, Faults, draw_options
from sim.invariants import ClusterInvariants
from sim.master import Health, SimulatedMaster
from sim.model import Model, check_history
from sim.network import SimulatedNetwork
from sim.virtual_time import World
from sim.witness import Violation, Witness

from essaim_master.kv.commands import Command, ProposalId, Put, Transaction, encode_command
from essaim_master.raft.config import RaftConfig
from essaim_master.raft.messages import Configuration
from essaim_master.raft.status import RaftStatus
from essaim_master.snapshot.settings import SnapshotSettings
from essaim_shared.errors import Unavailable
from essaim_shared.ids import MemberId

LAST_CALLS_S = 5.0
"""How long calls that are under way are waited for after healing."""
LIVENESS_S = 20.0
LIVENESS_STEP_S = 0.1
CHURN_EVERY_SEEDS = 4
"""In one of so many seeds members come and go; no disk is damaged in those."""


class Options(msgspec.Struct, frozen=True):
    """All that a seed draws before anything happens."""

    seed: int
    voters: int
    learners: int
    clients: int
    append_bytes_max: int
    inflight_messages_max: int
    snapshot_every_entries: int
    trailing_entries: int
    phase_one_s: float
    padding_bytes: int
    faults: FaultOptions
    has_churn: bool


class Report(msgspec.Struct, frozen=True):
    """What one seed came to."""

    options: Options
    violations: list[str]
    simulated_s: float
    events: int
    entries: int
    operations: int
    acknowledged: int
    terms: int
    changes: int
    """Of the configuration."""
    faults: int
    crashes: int
    corrupt: int
    restores: int
    trace: int


def draw(seed: int, phase_one_s: float | None = None) -> Options:
    rng = random.Random(seed * 2_654_435_761 + 1)
    return Options(
        seed=seed,
        voters=rng.choice((3, 3, 3, 5)),
        learners=rng.choice((0, 0, 1, 2)),
        clients=rng.choice((1, 3, 5)),
        append_bytes_max=rng.choice((256 * 1024, 256 * 1024, 100)),
        inflight_messages_max=rng.choice((128, 128, 2)),
        snapshot_every_entries=rng.choice((10, 40, 10_000)),
        trailing_entries=rng.choice((0, 5, 20)),
        phase_one_s=phase_one_s or rng.uniform(3.0, 9.0),
        padding_bytes=rng.choice((0, 0, 300)),
        faults=draw_options(rng),
        has_churn=seed % CHURN_EVERY_SEEDS == CHURN_EVERY_SEEDS - 1,
    )


class Simulation:
    def __init__(self, options: Options) -> None:
        self.options = options
        rng = self._rng = random.Random(options.seed)
        count = options.voters + options.learners
        names = tuple(MemberId(f"m{number}") for number in range(1, count + 1))
        configuration = Configuration(
            voters=names[: options.voters], learners=names[options.voters :]
        )
        self.world = World()
        self.witness = Witness(configuration)
        self.witness.look = self._look
        self.invariants = ClusterInvariants(self.witness, names)
        self.network = SimulatedNetwork(self.world, random.Random(rng.getrandbits(64)))
        self.network.sent = self.witness.sent
        self.masters = [
            SimulatedMaster(
                name,
                configuration,
                self.world,
                self.network,
                self.witness,
                self.invariants,
                random.Random(rng.getrandbits(64)),
                options.faults.clock_skew_max,
                RaftConfig(
                    name,
                    append_bytes_max=options.append_bytes_max,
                    inflight_messages_max=options.inflight_messages_max,
                ),
                SnapshotSettings(
                    every_entries=options.snapshot_every_entries,
                    entries_max=2 * options.snapshot_every_entries,
                    trailing_entries=options.trailing_entries,
                ),
            )
            for name in names
        ]
        self.clients = [
            SimulatedClient(
                f"c{number}",
                self.world,
                self.witness,
                self.masters,
                random.Random(rng.getrandbits(64)),
            )
            for number in range(options.clients)
        ]
        for client in self.clients:
            client.padding_bytes = options.padding_bytes
        self.faults = Faults(
            self.world,
            self.network,
            self.masters,
            options.faults,
            random.Random(rng.getrandbits(64)),
        )
        self.churn: Churn | None = None
        if options.has_churn:
            self.churn = Churn(self.world, self.masters, random.Random(rng.getrandbits(64)))
            self.faults.flips_left = 0

    # Running

    def run(self) -> Report:
        try:
            self._run_phases()
        except Violation as violation:
            self.witness.accuse(str(violation))
        report = self._report()
        for master in self.masters:
            master.loop.kill()  # Its tasks may be thrown away now without a word.
        return report

    def _run_phases(self) -> None:
        for master in self.masters:
            master.start()
        for client in self.clients:
            client.start()
        self.faults.start()
        if self.churn is not None:
            self.churn.start()
        if not self._run_for(self.options.phase_one_s):
            return
        self.faults.stop()
        if self.churn is not None:
            self.churn.stop()
        for client in self.clients:
            client.is_stopping = True
        self.witness.check_everything()
        self.invariants.check_everything()
        if not self._run_for(LAST_CALLS_S):
            return
        if self._becomes_lively():
            self._compare_states()
        self.witness.check_everything()
        self.invariants.check_everything()
        self._check_watches()
        operations = [one for client in self.clients for one in client.operations]
        for problem in check_history(self.witness.ledger, operations):
            self.witness.accuse(problem)

    def _run_for(self, duration_s: float) -> bool:
        """Whether all is still well afterwards."""
        violations = self.witness.violations
        self.world.run_until(self.world.now_s + duration_s, lambda: bool(violations))
        return not violations

    def _look(self, member: MemberId) -> RaftStatus | None:
        master = next(one for one in self.masters if one.member == member)
        return master.node.status() if master.health is Health.RUNNING else None

    def _living(self) -> list[SimulatedMaster]:
        """Those which must serve: members on disks that were not damaged."""
        wanted = set(self._last_configuration())
        return [
            master
            for master in self.masters
            if master.health is not Health.CORRUPT and master.member in wanted
        ]

    def _last_configuration(self) -> tuple[MemberId, ...]:
        statuses = [one.node.status() for one in self.masters if one.is_ready]
        if not statuses:
            return ()
        newest = max(statuses, key=lambda one: (one.commit, one.term)).configuration
        return (*newest.voters, *newest.learners)

    def _becomes_lively(self) -> bool:
        """Write and read through every master; whether all of that came about in time."""
        wanted = {master.member for master in self._living()}
        done: set[MemberId] = set()
        for master in self._living():
            if master.health is not Health.RUNNING:
                self.witness.accuse(f"{master.member} is down after all faults were healed")
                return False
            master.loop.spawn(self._use(master, done))
        deadline_s = self.world.now_s + LIVENESS_S
        while self.world.now_s < deadline_s:
            if not self._run_for(LIVENESS_STEP_S):
                return False
            if done == wanted and self._is_level():
                return True
        late = sorted(wanted - done)
        self.witness.accuse(
            f"[Liveness] {LIVENESS_S:.0f} s after healing these masters do not serve: {late}; "
            + "; ".join(self._describe(master) for master in self._living())
        )
        return False

    def _use(self, master: SimulatedMaster, done: set[MemberId]) -> Coroutine[Any, Any, None]:
        proposal = ProposalId(f"last-{master.member}", 1)
        put = Put(f"/last/{master.member}".encode(), b"written")
        command = encode_command(Command(proposal, 1, Transaction(then=(put,))))

        async def use() -> None:
            while not master.is_ready:
                await master.clock.sleep(LIVENESS_STEP_S)
            try:
                await master.node.propose(command, proposal, LIVENESS_S)
                await master.node.read_barrier(LIVENESS_S)
            except Unavailable:
                return
            if master.store.get(put.key) is None:
                self.witness.accuse(f"{master.member} does not read its own write")
            done.add(master.member)

        return use()

    def _is_level(self) -> bool:
        return len({master.node.applied for master in self._living()}) == 1

    def _describe(self, master: SimulatedMaster) -> str:
        if not master.is_ready:
            return f"{master.member} {master.health.value}"
        status = master.node.status()
        return (
            f"{master.member} {status.role.name} term {status.term} commit {status.commit} "
            f"applied {master.node.applied} last {status.last_index}"
        )

    # Looking back

    def _replayed(self) -> Model:
        model = Model()
        for index in sorted(self.witness.ledger):
            model.replay(index, self.witness.ledger[index].command)
        return model

    def _compare_states(self) -> None:
        """All masters hold the same map, and it is the model's."""
        model = self._replayed()
        for master in self._living():
            found = {
                one.key: (one.value, one.created, one.modified, one.version)
                for one in master.store.range(b"/")
            }
            if master.store.freeze().state_hash() != self._living()[0].store.freeze().state_hash():
                self.witness.accuse(f"the state hash of {master.member} differs")
            if master.store.revision != model.revision or found != model.values:
                self.witness.accuse(
                    f"the state of {master.member} at revision {master.store.revision} is not "
                    f"that of a replay of the log at revision {model.revision}"
                )

    def _check_watches(self) -> None:
        """Each life of each store told every revision once, in order, whole and true."""
        model = self._replayed()
        for master in self.masters:
            if master.life == 0:
                continue
            revisions = [revision for revision, _ in master.store.revisions]
            if revisions and revisions != list(range(revisions[0], revisions[0] + len(revisions))):
                self.witness.accuse(f"the watch of {master.member} told {revisions[:20]}…")
            for revision, events in master.store.revisions:
                told = {
                    event.key: (event.after.value, event.after.modified) if event.after else None
                    for event in events
                }
                true = {
                    key: (value.value, value.modified) if value else None
                    for key, value in model.changed.get(revision, {}).items()
                }
                if told != true:
                    self.witness.accuse(
                        f"the watch of {master.member} told of revision {revision} {told}, "
                        f"should be {true}"
                    )
                    return

    def _report(self) -> Report:
        operations = [one for client in self.clients for one in client.operations]
        return Report(
            options=self.options,
            violations=list(self.witness.violations),
            simulated_s=self.world.now_s,
            events=self.world.events,
            entries=len(self.witness.ledger),
            operations=len(operations),
            acknowledged=sum(one.returned is not None for one in operations),
            terms=len(self.witness.leaders),
            changes=0 if self.churn is None else self.churn.count,
            faults=self.faults.count,
            crashes=sum(master.crashes for master in self.masters),
            corrupt=sum(master.health is Health.CORRUPT for master in self.masters),
            restores=self.witness.restores,
            trace=self.witness.trace,
        )


def simulate(seed: int, phase_one_s: float | None = None) -> Report:
    return Simulation(draw(seed, phase_one_s)).run()
