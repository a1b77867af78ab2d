"""The eight invariants of Raft's TLA+ model, held against the simulated cluster as it runs.

After every turn of a machine it is asked what that turn can have broken; now and then, and at the
ends of the phases, all of it is looked at. See `support.raft_invariants` for the properties.
"""

from typing import TYPE_CHECKING

from sim.witness import Witness
from support.raft_invariants import InvariantBroken, InvariantWatch, Observed

from essaim_shared.ids import MemberId

if TYPE_CHECKING:
    from sim.master import SimulatedMaster

TURNS_BETWEEN_FULL_CHECKS = 1000


class DurableLog:
    """What one member's disk would give back, as the witness knows it."""

    def __init__(self, witness: Witness, member: MemberId) -> None:
        self._witness = witness
        self._member = member

    @property
    def first_index(self) -> int:
        return self._witness.durable[self._member].base + 1

    @property
    def last_index(self) -> int:
        return self._witness.durable[self._member].last_index

    def term_at(self, index: int) -> int | None:
        image = self._witness.durable[self._member]
        if index <= image.base:
            return image.base_term if index == image.base else None
        return image.term_at(index)


class ClusterInvariants:
    def __init__(self, witness: Witness, members: tuple[MemberId, ...]) -> None:
        self._witness = witness
        self._watch = InvariantWatch()
        self._logs = {member: DurableLog(witness, member) for member in members}
        self._members = {member: Observed(None, self._logs[member]) for member in members}
        self._turns = 0
        self.full_checks = 0

    def life_began(self, master: "SimulatedMaster") -> None:
        log = self._logs[master.member]
        self._members[master.member] = Observed(master.node._core, log)

    def life_ended(self, member: MemberId) -> None:
        self._members[member] = Observed(None, self._logs[member])

    def turn_ended(self, member: MemberId) -> None:
        self._turns += 1
        if self._turns % TURNS_BETWEEN_FULL_CHECKS == 0:
            self.check_everything()
            return
        try:
            self._watch.step(self._members, member)
        except InvariantBroken as broken:
            self._witness.accuse(f"[{broken}]")

    def check_everything(self) -> None:
        self.full_checks += 1
        try:
            self._watch.full(self._members)
        except InvariantBroken as broken:
            self._witness.accuse(f"[{broken}]")
