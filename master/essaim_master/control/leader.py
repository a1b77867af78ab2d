"""The driver of the control loops: what starts with leadership and stops when it is lost.

A term of office
----------------
1. Read everything that was acknowledged before (`read_barrier`), then write the LeaderEpoch. From
   here on no write of an earlier leader can succeed.
2. Write what every cluster has: its ClusterInfo, the predefined networks, its authority.
3. Build worklist, assignment book and detector from the state; serve the agents; one full pass,
   then changes as they come.

An office ends when another leader is elected, or when a write's outcome is unknown: the office is
then taken anew, under a new epoch, which also fences what may still be under way.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

from essaim_master.control.allocator import Cursors
from essaim_master.control.dispatcher import Dispatcher
from essaim_master.control.founding import (
    ControlSettings,
    FirstTrust,
    first_trust_writes,
    founding_writes,
)
from essaim_master.control.guarded import GuardedWriter, begin_epoch
from essaim_master.control.liveness import FailureDetector
from essaim_master.control.monitor import NodeMonitor
from essaim_master.control.planner import plan_slice
from essaim_master.control.rejects import Rejects
from essaim_master.control.sessions import SessionTable
from essaim_master.control.surroundings import Surroundings
from essaim_master.control.worklist import Worklist
from essaim_master.state.cluster import Cluster
from essaim_master.state.cluster_state import AppliedChanges
from essaim_master.state.network_uses import DEFAULT_NETWORK
from essaim_master.vault import Vault
from essaim_shared.clock import Clock, to_beat_s
from essaim_shared.errors import Unavailable
from essaim_shared.log import fields
from essaim_shared.subjects import Subjects
from essaim_shared.transport import Transport

_log = logging.getLogger(__name__)

DEBOUNCE_S: Final = 0.02
"""Least time between two passes while changes keep coming; after a pause there is no wait."""

TICK_S: Final = 0.1
"""How exactly delayed restarts are started; one of a delay below a beat may be that much late."""

RETRY_S: Final = 0.2
"""Before an office that failed is taken anew."""

FOUNDING_ATTEMPTS_MAX: Final = 10
"""The predefined networks are worked out again when another one came at the same time."""


class Leader:
    """Runs on every master; works on the one that leads."""

    def __init__(
        self,
        cluster: Cluster,
        transport: Transport,
        clock: Clock,
        rng: random.Random,
        settings: ControlSettings,
        vault: Vault | None = None,
        first_trust: Callable[[], FirstTrust | None] | None = None,
    ) -> None:
        """`first_trust` is what the cluster's authority is founded with, where it has none; None
        for a master without an identity."""
        self._cluster = cluster
        self._first_trust = first_trust
        self._clock = clock
        self._rng = rng
        self._settings = settings
        self._leads = False
        self._term = 0
        self._changed = asyncio.Event()
        self.rejects = Rejects(clock)
        """Malformed messages that came in while leading."""
        subjects = Subjects(settings.cluster_id)
        self._surroundings = Surroundings(
            cluster, transport, subjects, clock, rng, self.rejects, vault or Vault()
        )

    async def run(self) -> None:
        """Work whenever this master leads, until cancelled."""
        self._cluster.subscribe_leadership(self._note_leadership)
        while True:
            self._changed.clear()
            if not self._leads:
                await self._changed.wait()
                continue
            await self._hold_office(self._term)

    def _note_leadership(self, leads: bool, term: int) -> None:
        self._leads, self._term = leads, term
        self._changed.set()

    async def _hold_office(self, term: int) -> None:
        """Work as the leader of a term until leadership changes or is in doubt."""
        office = asyncio.create_task(self._serve(term), name=f"leader of term {term}")
        change = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({office, change}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (office, change):
                task.cancel()
            await asyncio.gather(office, change, return_exceptions=True)
        if not office.cancelled() and (failure := office.exception()) is not None:
            raise failure
        if self._changed.is_set():
            return
        epoch = self._cluster.state.leader_epoch
        if epoch is not None and epoch.term > term:
            await self._changed.wait()  # another one leads; this master will soon be told
        else:
            await self._clock.sleep(RETRY_S)

    async def _serve(self, term: int) -> None:
        try:
            writer = await begin_epoch(self._cluster, term)
            await self._found(writer)
            await self._found_trust(writer)
            _log.info("leading %s", fields(term=term, member=self._cluster.member_id))
            await _Office(self._surroundings, writer, term).run()
        except* Unavailable as failures:
            for failure in _flattened(failures):
                _log.warning("leadership interrupted %s", fields(term=term, reason=failure))

    async def _found(self, writer: GuardedWriter) -> None:
        """Write what every cluster has and this one lacks."""
        state = self._cluster.state
        for _ in range(FOUNDING_ATTEMPTS_MAX):
            now_ns = self._clock.wall_ns()
            if await writer.write(founding_writes(state, self._settings, self._rng, now_ns)):
                break
        else:
            raise Unavailable(
                f"networks came {FOUNDING_ATTEMPTS_MAX} times while the predefined ones were made"
            )
        default = state.network_named(DEFAULT_NETWORK)
        if default is not None and not default.vip_subnet:
            pools = ", ".join(self._settings.pools.vip_subnets)
            _log.warning("services on the default network get no addresses %s", fields(full=pools))

    async def _found_trust(self, writer: GuardedWriter) -> None:
        state = self._cluster.state
        if self._first_trust is None or state.trust_anchors is not None:
            return
        trust = self._first_trust()
        if trust is None:
            _log.warning(
                "this cluster has no authority, and none was made for it: nobody can join; "
                "a new cluster begins with essaim cluster init"
            )
        elif await writer.write(first_trust_writes(state, trust)):
            _log.info("founded the authority %s", fields(identities=len(trust.identities)))


class _Office:
    """Everything that lives as long as one epoch."""

    def __init__(self, surroundings: Surroundings, writer: GuardedWriter, term: int) -> None:
        self._state = surroundings.cluster.state
        self._clock = surroundings.clock
        self._rng = surroundings.rng
        self._writer = writer
        self._wake = asyncio.Event()
        self._worklist = Worklist(self._state)
        self._cursors = Cursors()
        detector = FailureDetector(self._clock.monotonic_s())
        sessions = SessionTable()
        self._monitor = NodeMonitor(surroundings, writer, detector, sessions)
        self._dispatcher = Dispatcher(surroundings, writer, term, self._monitor, detector, sessions)

    async def run(self) -> None:
        unsubscribe = self._state.subscribe(self._note)
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._dispatcher.run())
                loops.create_task(self._monitor.run())
                loops.create_task(self._control_loop())
                loops.create_task(self._tick_loop())
        finally:
            unsubscribe()

    def _note(self, applied: AppliedChanges) -> None:
        self._dispatcher.note(applied)
        self._worklist.note(applied)
        if self._worklist:
            self._wake.set()

    async def _control_loop(self) -> None:
        """Slices of work, one after the other; each sees the one before applied."""
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._work_off()
            # Whatever changes in the meantime is looked at together.
            await self._clock.sleep(DEBOUNCE_S)

    async def _work_off(self) -> None:
        while True:
            writes = plan_slice(
                self._state, self._worklist, self._cursors, self._rng, self._clock.wall_ns()
            )
            if writes and not await self._writer.write(writes):
                self._worklist.add_everything()
                self._wake.set()
                return
            for service_id, rollback in self._worklist.take_rollbacks().items():
                if not await self._writer.write(rollback):
                    self._worklist.rollback_failed(service_id)
            if not self._worklist:
                return
            await self._clock.sleep(0)

    async def _tick_loop(self) -> None:
        """Wake the control loop when something is due at a certain time."""
        while True:
            now_ns = self._clock.wall_ns()
            if self._worklist.is_due(now_ns):
                self._wake.set()
            wait_s = to_beat_s(self._clock)
            due_ns = self._worklist.next_due_ns()
            if due_ns is not None:
                wait_s = min(wait_s, max((due_ns - now_ns) / 1e9, TICK_S))
            await self._clock.sleep(wait_s)


def _flattened(group: BaseExceptionGroup[Unavailable]) -> list[Unavailable]:
    """The failures of nested task groups, one after the other."""
    found: list[Unavailable] = []
    for failure in group.exceptions:
        if isinstance(failure, BaseExceptionGroup):
            found.extend(_flattened(failure))
        else:
            found.append(failure)
    return found
