"""The driver of the control loops: what starts with leadership and stops when it is lost.

A term of office
----------------
1. Read everything that was acknowledged before (`read_barrier`), then write the LeaderEpoch. From
   here on no write of an earlier leader can succeed.
2. Write what every cluster has: its ClusterInfo and the default network.
3. Build worklist, assignment book and detector from the state; serve the agents; one full pass,
   then changes as they come.

An office ends when another leader is elected, or when a write's outcome is unknown: the office is
then taken anew, under a new epoch, which also fences what may still be under way.
"""

import asyncio
import logging
import random
from typing import Final

import msgspec

from essaim_master.control.allocator import Cursors
from essaim_master.control.dispatcher import Dispatcher
from essaim_master.control.guarded import GuardedWriter, begin_epoch
from essaim_master.control.liveness import FailureDetector
from essaim_master.control.monitor import NodeMonitor
from essaim_master.control.placer import DEFAULT_NETWORK_NAME
from essaim_master.control.planner import plan_slice
from essaim_master.control.rejects import Rejects
from essaim_master.control.sessions import SessionTable
from essaim_master.control.surroundings import Surroundings
from essaim_master.control.worklist import Worklist
from essaim_master.images.credentials import CredentialVault
from essaim_master.state.cluster import Cluster
from essaim_master.state.cluster_state import AppliedChanges
from essaim_master.state.writes import Writes
from essaim_shared.clock import Clock
from essaim_shared.errors import Unavailable
from essaim_shared.ids import NetworkId, new_id
from essaim_shared.log import fields
from essaim_shared.objects import ClusterInfo, Network
from essaim_shared.subjects import Subjects
from essaim_shared.transport import Transport

_log = logging.getLogger(__name__)

DEBOUNCE_S: Final = 0.02
"""Least time between two passes while changes keep coming; after a pause there is no wait."""

TICK_S: Final = 0.1
"""How exactly delayed restarts are started."""

RETRY_S: Final = 0.2
"""Before an office that failed is taken anew."""


class ControlSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a new cluster is made with."""

    cluster_id: str
    subnet: str
    """Of the default network, in CIDR form."""
    vni: int
    mtu: int


class Leader:
    """Runs on every master; works on the one that leads."""

    def __init__(
        self,
        cluster: Cluster,
        transport: Transport,
        clock: Clock,
        rng: random.Random,
        settings: ControlSettings,
        vault: CredentialVault | None = None,
    ) -> None:
        self._cluster = cluster
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
            cluster, transport, subjects, clock, rng, self.rejects, vault or CredentialVault()
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
            await writer.write(self._founding_writes())
            _log.info("leading %s", fields(term=term, member=self._cluster.member_id))
            await _Office(self._surroundings, writer, term).run()
        except* Unavailable as failures:
            for failure in _flattened(failures):
                _log.warning("leadership interrupted %s", fields(term=term, reason=failure))

    def _founding_writes(self) -> Writes:
        state = self._cluster.state
        now_ns = self._clock.wall_ns()
        writes = Writes()
        if state.cluster is None:
            writes.put(ClusterInfo(id=self._settings.cluster_id, created_ns=now_ns))
        if all(network.name != DEFAULT_NETWORK_NAME for network in state.networks.values()):
            writes.put(
                Network(
                    id=NetworkId(new_id(self._rng)),
                    name=DEFAULT_NETWORK_NAME,
                    vni=self._settings.vni,
                    subnet=self._settings.subnet,
                    mtu=self._settings.mtu,
                    created_ns=now_ns,
                )
            )
        return writes


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
            rollbacks, self._worklist.rollbacks = self._worklist.rollbacks, []
            for rollback in rollbacks:
                await self._writer.write(rollback)
            if not self._worklist:
                return
            await self._clock.sleep(0)

    async def _tick_loop(self) -> None:
        """Wake the control loop when something is due at a certain time."""
        while True:
            if self._worklist.is_due(self._clock.wall_ns()):
                self._wake.set()
            await self._clock.sleep(TICK_S)


def _flattened(group: BaseExceptionGroup[Unavailable]) -> list[Unavailable]:
    """The failures of nested task groups, one after the other."""
    found: list[Unavailable] = []
    for failure in group.exceptions:
        if isinstance(failure, BaseExceptionGroup):
            found.extend(_flattened(failure))
        else:
            found.append(failure)
    return found
