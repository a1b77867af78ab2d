"""What goes wrong: a stream of faults drawn from the seed, and their end.

Two limits keep the promises of Raft in force. At most a minority of the disks is ever damaged (a
bit flip is not a crash: what it destroys was durable), and all other faults end with phase one.
"""

import contextlib
import random
from collections.abc import Callable, Sequence

import msgspec
from sim.master import Health, SimulatedMaster
from sim.network import SimulatedNetwork
from sim.virtual_time import World

from essaim_master.raft.errors import NotLeader, TransferRefused
from essaim_shared.errors import Unavailable
from essaim_shared.ids import MemberId

CRASH_CALLBACKS_MAX = 120
CRASH_FILE_OPERATIONS_MAX = 12
DOWN_S = (0.05, 2.0)
PAUSE_S = (0.1, 2.5)
CUT_S = (0.3, 4.0)


class FaultOptions(msgspec.Struct, frozen=True):
    """How hard one seed is on its cluster."""

    gap_s: float
    """Mean time between two faults."""
    weights: dict[str, float]
    """How often each kind is drawn, relative to the others; 0 leaves it out."""
    clock_skew_max: float
    slow_disks: bool


KINDS = (
    "kill",
    "power_cut",
    "power_cut_at_callback",
    "power_cut_at_file_operation",
    "all_lose_power",
    "pause",
    "isolate",
    "split",
    "one_way",
    "ring",
    "weather",
    "clog",
    "slow_disk",
    "full_disk",
    "broken_disk",
    "flip_bit",
    "transfer",
)


def draw_options(rng: random.Random) -> FaultOptions:
    """A third of the kinds is left out of each seed: mild seeds find what rough ones hide."""
    weights = {kind: rng.choice((0.0, 1.0, 1.0 + 2 * rng.random())) for kind in KINDS}
    weights["all_lose_power"] *= 0.3
    weights["broken_disk"] *= 0.3
    return FaultOptions(
        gap_s=rng.choice((0.2, 0.5, 1.0)),
        weights=weights,
        clock_skew_max=rng.choice((0.0, 0.01, 0.1)),
        slow_disks=rng.random() < 0.3,
    )


class Faults:
    def __init__(
        self,
        world: World,
        network: SimulatedNetwork,
        masters: Sequence[SimulatedMaster],
        options: FaultOptions,
        rng: random.Random,
    ) -> None:
        self._world = world
        self._network = network
        self._masters = masters
        self._options = options
        self._rng = rng
        self._is_over = False
        self.flips_left = 1  # Of three voters, at least two keep what they promised.
        self.count = 0
        self._kinds = [kind for kind in KINDS if options.weights[kind] > 0]
        self._weights = [options.weights[kind] for kind in self._kinds]
        for master in masters:
            master.ended = self._life_ended
            if options.slow_disks:
                master.speed.slow_probability, master.speed.slow_max_s = 0.02, 0.3

    def start(self) -> None:
        self._world.after(self._rng.expovariate(1 / self._options.gap_s), self._strike)

    def stop(self) -> None:
        """Heal everything, and start who is down."""
        self._is_over = True
        self._network.heal()
        for master in self._masters:
            master.speed.slow_probability = 0.0
            self._repair(master)
            master.resume()
            if master.health is Health.RUNNING:
                master.loop.crash_after_callbacks = None
                master.files.cut_after_operations = None
            elif master.health is Health.DOWN:
                master.start()

    def _strike(self) -> None:
        if self._is_over or not self._kinds:
            return
        kind = self._rng.choices(self._kinds, self._weights)[0]
        self.count += 1
        STRIKES[kind](self)
        self.start()

    def _some_master(self) -> SimulatedMaster | None:
        """Often the leader: that is where it hurts."""
        running = [master for master in self._masters if master.is_ready]
        if not running:
            return None
        leaders = [master for master in running if master.node.is_leader]
        if leaders and self._rng.random() < 0.5:
            return self._rng.choice(leaders)
        return self._rng.choice(running)

    def _between(self, bounds: tuple[float, float]) -> float:
        return self._rng.uniform(*bounds)

    def _later(self, bounds: tuple[float, float], action: Callable[[], None]) -> None:
        """An end of a fault; nothing happens any more once all faults were healed."""
        self._world.after(self._between(bounds), lambda: None if self._is_over else action())

    def _life_ended(self, master: SimulatedMaster) -> None:
        if master.health is Health.DOWN:
            self._world.after(self._between(DOWN_S), self._start_again, master, master.life)

    def _start_again(self, master: SimulatedMaster, life: int) -> None:
        if master.health is Health.DOWN and master.life == life:
            self._repair(master)
            master.start()

    def _repair(self, master: SimulatedMaster) -> None:
        master.files.is_broken = master.files.is_full = False

    # Machines

    def kill(self) -> None:
        if (master := self._some_master()) is not None:
            master.kill()

    def power_cut(self) -> None:
        if (master := self._some_master()) is not None:
            master.cut_power()

    def power_cut_at_callback(self) -> None:
        if (master := self._some_master()) is not None:
            master.crash_after(self._rng.randrange(1, CRASH_CALLBACKS_MAX))

    def power_cut_at_file_operation(self) -> None:
        if (master := self._some_master()) is not None:
            master.crash_at_file_operation(self._rng.randrange(1, CRASH_FILE_OPERATIONS_MAX))

    def all_lose_power(self) -> None:
        for master in self._masters:
            master.cut_power()

    def pause(self) -> None:
        if (master := self._some_master()) is not None:
            master.pause()
            self._later(PAUSE_S, master.resume)

    def transfer(self) -> None:
        master = self._some_master()
        if master is None or not master.node.is_leader:
            return
        to = self._rng.choice([other.member for other in self._masters if other is not master])

        async def hand_over() -> None:
            # It may well fail under faults: the cluster must live with half of it.
            with contextlib.suppress(NotLeader, TransferRefused, Unavailable):
                await master.node.transfer_leadership(to)

        master.loop.spawn(hand_over())

    # Wires

    def _names(self) -> list[MemberId]:
        names = [master.member for master in self._masters]
        self._rng.shuffle(names)
        return names

    def _cut(self, links: set[tuple[MemberId, MemberId]]) -> None:
        self._network.cut |= links
        self._later(CUT_S, lambda: self._network.cut.difference_update(links))

    def isolate(self) -> None:
        master = self._some_master()
        if master is not None:
            others = [name for name in self._names() if name != master.member]
            self._cut({(master.member, other) for other in others})
            self._cut({(other, master.member) for other in others})

    def split(self) -> None:
        names = self._names()
        here, there = names[: len(names) // 2], names[len(names) // 2 :]
        links = {(one, other) for one in here for other in there}
        self._cut(links | {(other, one) for one, other in links})

    def one_way(self) -> None:
        names = self._names()
        if self._rng.random() < 0.5:
            self._cut({(names[0], names[1])})
        else:
            self._cut({(names[0], other) for other in names[1:]})

    def ring(self) -> None:
        """Everybody reaches a quorum, and no two the same one (Jepsen's majorities-ring)."""
        names = self._names()
        reach = len(names) // 2
        links = set()
        for position, name in enumerate(names):
            near = {names[(position + step) % len(names)] for step in range(reach + 1)}
            links |= {(name, other) for other in names if other not in near}
        self._cut(links)

    def weather(self) -> None:
        rng, network = self._rng, self._network
        network.loss_probability = rng.choice((0.0, 0.02, 0.1, 0.3))
        network.duplicate_probability = rng.choice((0.0, 0.05, 0.3, 0.5))
        network.replay_max_s = rng.choice((0.0, 0.5, 3.0, 6.0))
        network.delay_max_s = rng.choice((0.0, 0.01, 0.1, 0.4, 2.0))

    def clog(self) -> None:
        names = self._names()
        until_s = self._world.now_s + self._between((0.05, 1.5))
        self._network.clogged_until_s[names[0], names[1]] = until_s

    # Disks

    def slow_disk(self) -> None:
        if (master := self._some_master()) is not None:
            speed = master.speed
            speed.slow_probability, speed.slow_max_s = 0.3, self._rng.choice((0.05, 0.5, 3.0))

            def recover() -> None:
                speed.slow_probability = 0.0

            self._later((0.5, 3.0), recover)

    def full_disk(self) -> None:
        if (master := self._some_master()) is not None:
            master.expected_errors = (OSError,)
            files = master.files
            files.is_full = True

            def make_room() -> None:
                files.is_full = False

            self._later((0.5, 3.0), make_room)

    def broken_disk(self) -> None:
        if (master := self._some_master()) is not None:
            master.expected_errors = (OSError,)
            master.files.is_broken = True

    def flip_bit(self) -> None:
        """A bit of a machine that is down changes; it must notice, or the bit must not matter."""
        down = [one for one in self._masters if one.health is Health.DOWN and not one.is_flipped]
        if down and self.flips_left:
            master = self._rng.choice(down)
            if master.files.flip_bit(self._rng) is not None:
                master.is_flipped = True
                self.flips_left -= 1


STRIKES: dict[str, Callable[[Faults], None]] = {kind: getattr(Faults, kind) for kind in KINDS}
