"""Members come and go: the leader is asked for one change after another, whatever else goes wrong.

There are always three voters or more, and a removed member may come back with its own disk.
"""

import contextlib
import random
from collections.abc import Sequence

from sim.master import SimulatedMaster
from sim.virtual_time import World

from essaim_master.raft.errors import MembershipRefused, NotLeader, ProposalDropped
from essaim_master.raft.membership import (
    AddLearner,
    ConfigurationChange,
    PromoteLearner,
    RemoveMember,
)
from essaim_master.raft.messages import Configuration
from essaim_shared.errors import Unavailable

GAP_S = 0.4
VOTERS_MIN = 3


class Churn:
    def __init__(
        self, world: World, masters: Sequence[SimulatedMaster], rng: random.Random
    ) -> None:
        self._world = world
        self._masters = masters
        self._rng = rng
        self._is_over = False
        self.count = 0
        """Changes that a leader appended."""

    def start(self) -> None:
        self._world.after(self._rng.expovariate(1 / GAP_S), self._change)

    def stop(self) -> None:
        self._is_over = True

    def _change(self) -> None:
        if self._is_over:
            return
        self.start()
        leaders = [one for one in self._masters if one.is_ready and one.node.is_leader]
        if not leaders:
            return
        leader = self._rng.choice(leaders)
        change = self._draw(leader.node.status().configuration)
        if change is None:
            return
        with contextlib.suppress(NotLeader, ProposalDropped, MembershipRefused, Unavailable):
            leader.loop.run_inside(lambda: leader.node.propose_configuration(change))
            self.count += 1

    def _draw(self, configuration: Configuration) -> ConfigurationChange | None:
        voters, learners = configuration.voters, configuration.learners
        outside = [one.member for one in self._masters if one.member not in (*voters, *learners)]
        changes: list[ConfigurationChange] = [AddLearner(name) for name in outside]
        changes += [PromoteLearner(name) for name in learners]
        changes += [RemoveMember(name) for name in learners]
        if len(voters) > VOTERS_MIN:
            changes += [RemoveMember(name) for name in voters]
        return self._rng.choice(changes) if changes else None
