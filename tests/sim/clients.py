"""Clients: each has one call under way at a time, through any master, and remembers every word.

A write that was not answered may be tried again under its own proposal id at another master, as
a master does for its callers: it must still happen once.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from sim.master import SimulatedMaster
from sim.model import ModelValue, Operation, Outcome, as_model
from sim.virtual_time import PowerCut, World
from sim.witness import Witness

from essaim_master.kv.commands import (
    Command,
    CompareRevision,
    Delete,
    Get,
    ProposalId,
    Put,
    Transaction,
    TransactionResult,
    encode_command,
)
from essaim_shared.errors import NoLeader, OutcomeUnknown, Unavailable

KEYS = tuple(f"/sim/{name}".encode() for name in "abcde")
TIMEOUT_S = (0.3, 1.0, 3.0)
THINK_MAX_S = (0.01, 0.05, 0.15)
ANSWER_LOST_PROBABILITY = 0.05
RETRIES_OF_A_WRITE_MAX = 4
ATTEMPT_GIVEN_UP_S = 4.0
"""The client's own patience: the master may be dead, or paused."""


class SimulatedClient:
    def __init__(
        self,
        name: str,
        world: World,
        witness: Witness,
        masters: Sequence[SimulatedMaster],
        rng: random.Random,
    ) -> None:
        self._name = name
        self._world = world
        self._witness = witness
        self._masters = masters
        self._rng = rng
        self._sequence = 0
        self._known: dict[bytes, int] = {}
        """Revision at which it last saw each key: for compare-and-swap."""
        self._attempt = 0
        self.operations: list[Operation] = []
        self.is_stopping = False
        self.padding_bytes = 0
        self._think_max_s = rng.choice(THINK_MAX_S)

    def start(self) -> None:
        self._think()

    def _next(self) -> None:
        if self.is_stopping:
            return
        if self._rng.random() < 0.3:
            self._read()
        else:
            self._write()

    def _think(self) -> None:
        self._world.after(self._rng.random() * self._think_max_s, self._next)

    def _pick_master(self) -> SimulatedMaster | None:
        ready = [master for master in self._masters if master.is_ready]
        return self._rng.choice(ready) if ready else None

    def _called(self, proposal: ProposalId | None, key: bytes) -> Operation:
        self._witness.moment += 1
        operation = Operation(self._witness.moment, proposal, key)
        self.operations.append(operation)
        return operation

    def _returned(self, operation: Operation, outcome: Outcome) -> None:
        self._witness.moment += 1
        operation.returned = self._witness.moment
        operation.outcome = outcome

    # Reads

    def _read(self) -> None:
        master = self._pick_master()
        if master is None:
            self._think()
            return
        operation = self._called(None, self._rng.choice(KEYS))
        self._run(master, self._read_at(master, operation), self._think)

    async def _read_at(self, master: SimulatedMaster, operation: Operation) -> Callable[[], None]:
        try:
            await master.node.read_barrier(self._rng.choice(TIMEOUT_S))
        except Unavailable:
            return self._think
        found = master.store.get(operation.key)
        if found is not None:
            operation.seen = ModelValue(found.value, found.created, found.modified, found.version)
            self._known[operation.key] = found.modified
        operation.place = master.node.applied
        self._returned(operation, Outcome.DONE)
        return self._think

    # Writes

    def _write(self) -> None:
        self._sequence += 1
        proposal = ProposalId(self._name, self._sequence)
        command = encode_command(Command(proposal, self._sequence, self._draw_transaction()))
        operation = self._called(proposal, b"")
        self._try_write(operation, command, RETRIES_OF_A_WRITE_MAX)

    def _draw_transaction(self) -> Transaction:
        rng = self._rng
        key = rng.choice(KEYS)
        value = f"{self._name}-{self._sequence}".encode().ljust(rng.randint(0, 40), b".")
        value += bytes(rng.randint(0, self.padding_bytes))
        kind = rng.random()
        if kind < 0.5:
            return Transaction(then=(Put(key, value),))
        if kind < 0.75:
            compare = CompareRevision(key, self._known.get(key, 0))
            return Transaction((compare,), (Put(key, value), Get(key)), (Get(key),))
        if kind < 0.85:
            return Transaction(then=(Delete(key),))
        other = rng.choice(KEYS)
        return Transaction(then=(Get(key), Put(key, value), Put(other, value), Get(other)))

    def _try_write(self, operation: Operation, command: bytes, attempts_left: int) -> None:
        master = self._pick_master()
        if master is None or attempts_left == 0:
            self._think()
            return

        def gave_up() -> None:
            operation.outcome = Outcome.UNKNOWN
            if self._rng.random() < 0.7:
                self._try_write(operation, command, attempts_left - 1)
            else:
                self._think()

        self._run(master, self._write_at(master, operation, command, gave_up), gave_up)

    async def _write_at(
        self,
        master: SimulatedMaster,
        operation: Operation,
        command: bytes,
        gave_up: Callable[[], None],
    ) -> Callable[[], None]:
        timeout_s = self._rng.choice(TIMEOUT_S)
        assert operation.proposal is not None
        try:
            result = await master.node.propose(command, operation.proposal, timeout_s)
        except (NoLeader, OutcomeUnknown, Unavailable) as error:
            if not isinstance(error, OutcomeUnknown) and operation.outcome is Outcome.PENDING:
                # Said of the only attempt there was: then nothing may ever happen.
                self._returned(operation, Outcome.NOTHING)
                return self._think
            return gave_up
        if self._rng.random() < ANSWER_LOST_PROBABILITY:
            return gave_up
        assert isinstance(result, TransactionResult)
        operation.result = as_model(result)
        for found in result.values:
            if found is not None:
                self._known[found.key] = found.modified
        self._returned(operation, Outcome.DONE)
        return self._think

    # Attempts

    def _run(
        self,
        master: SimulatedMaster,
        attempt: Coroutine[Any, Any, Callable[[], None]],
        gave_up: Callable[[], None],
    ) -> None:
        """Run one attempt on a master; whatever happens to it, go on, once."""
        self._attempt += 1
        number = self._attempt

        def ended(task: asyncio.Task[Callable[[], None]]) -> None:
            if task.cancelled() or number != self._attempt:
                return
            self._attempt += 1
            patience.cancel()
            error = task.exception()
            if error is None:
                self._world.after(0.0, task.result())
            elif not isinstance(error, PowerCut):
                self._witness.accuse(f"a call raised {error!r}")

        def lost_patience() -> None:
            self._attempt += 1
            task.cancel()
            gave_up()

        patience = self._world.after(ATTEMPT_GIVEN_UP_S, lost_patience)
        task = master.loop.spawn(attempt)
        task.add_done_callback(ended)
