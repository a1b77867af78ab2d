"""A master that stands by: it announces itself to the leader until it is added, or stopped."""

import asyncio
import logging
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from essaim_master.bus_users.parts import bus_follower
from essaim_master.config import MasterConfig
from essaim_master.http.peer_requests import AskMaster, PeerRequests
from essaim_master.http.server import HttpServer
from essaim_master.own_tls import own_tls
from essaim_master.process_end import end_process
from essaim_master.raft.messages import Configuration
from essaim_master.standby.announcements import ANNOUNCE_PERIOD_S, Announcement, Told
from essaim_master.standby.app import StandbyApp, StandbyView
from essaim_master.standby.names import draw_name
from essaim_master.standby.record import StandbyFiles, StandbyRecord
from essaim_master.state.cluster import Member
from essaim_master.versions import CLUSTER_VERSION
from essaim_master.wal.records import Identity
from essaim_shared import __version__, notify
from essaim_shared.clock import Clock, SystemClock
from essaim_shared.errors import Unavailable
from essaim_shared.log import fields
from essaim_shared.trust.renewal import IdentityRenewal
from essaim_shared.undecodable import UNDECODABLE

ANNOUNCE_TARGET = "/essaim/cluster/standbys"
ASK_TIMEOUT_S = 2.0
MEMBERS_REMEMBERED_MAX = 32
"""More than a cluster has; what a master tells is not trusted beyond that."""

_log = logging.getLogger(__name__)


def no_note(generation: int, masters: tuple[str, ...]) -> None:
    """For a master without an identity."""


class StandbyMaster:
    """Announces itself and does as it is told; the record is on disk before that counts."""

    def __init__(
        self,
        config: MasterConfig,
        files: StandbyFiles,
        record: StandbyRecord,
        clock: Clock,
        rng: random.Random,
        ask: AskMaster,
        note: Callable[[int, tuple[str, ...]], None] = no_note,
    ) -> None:
        """`note` is told which trust anchors the cluster has, and where its masters are."""
        self._note = note
        self._config = config
        self._files = files
        self._record = record
        self._clock = clock
        self._rng = rng
        self._ask = ask
        self._said = ""
        self._last_good = ""

    @property
    def record(self) -> StandbyRecord:
        return self._record

    def view(self) -> StandbyView:
        return StandbyView(self._record.member_id, self._known(), self._said)

    async def run(self) -> None:
        """Until the leader has added this master. Raises OSError when the disk fails."""
        while not self._record.takes_part:
            await self.turn()
            if not self._record.takes_part:
                await self._clock.sleep(ANNOUNCE_PERIOD_S)

    async def turn(self) -> None:
        """Announce once, to the first master that has an answer."""
        for address in self.addresses():
            told = await self._announce(address)
            if told is not None:
                self._last_good = address
                self._say("")
                self._note(told.trust_generation, tuple(one.http for one in told.members))
                self._obey(told)
                return

    def _obey(self, told: Told) -> None:
        record = self._record
        members = tuple(
            Member(member.id, member.raft, member.http)
            for member in told.members[:MEMBERS_REMEMBERED_MAX]
            if member.id != record.member_id
        )
        wanted = msgspec.structs.replace(
            record, members=members or record.members, incarnation=told.incarnation
        )
        if told.standing == "member":
            self._files.begin_log(
                Identity(
                    self._config.cluster_id,
                    record.member_id,
                    Configuration(()),  # the log that it is sent tells it
                    told.incarnation,
                )
            )
            wanted = msgspec.structs.replace(wanted, takes_part=True)
        elif told.standing == "removed":
            # It was added and removed again before this master heard of either.
            name = draw_name(self._config.member_id, self._rng)
            wanted = msgspec.structs.replace(wanted, member_id=name)
        if wanted != record:
            self._files.write(wanted)
            self._record = wanted

    async def _announce(self, address: str) -> Told | None:
        """None when that master has no answer to it."""
        announcement = Announcement(
            cluster_id=self._config.cluster_id,
            id=self._record.member_id,
            raft=self._config.raft_listen,
            http=self._config.http_listen,
            version=CLUSTER_VERSION,
            build=__version__,
        )
        body = msgspec.json.encode(announcement)
        try:
            answer = await self._ask(
                address, "POST", ANNOUNCE_TARGET, hops=0, timeout_s=ASK_TIMEOUT_S, body=body
            )
            if answer.status == 200:
                return msgspec.json.decode(answer.body, type=Told)
        except Unavailable as error:
            self._say(str(error))
            return None
        except UNDECODABLE as error:
            self._say(f"the master at {address} answered what is no answer: {error}")
            return None
        sentence = answer.body.decode(errors="replace")[:300]
        self._say(f"the master at {address} answered {answer.status}: {sentence}")
        return None

    def _known(self) -> tuple[Member, ...]:
        """Where masters are or were: as told last, then as configured."""
        own = self._config.http_listen
        told = tuple(member for member in self._record.members if member.http != own)
        return told or tuple(m for m in self._config.first_members if m.http != own)

    def addresses(self) -> list[str]:
        """Of those that may have an answer, the last one that had first."""
        configured = [member.http for member in self._config.first_members]
        addresses = dict.fromkeys(
            (self._last_good, *(member.http for member in self._known()), *configured)
        )
        return [one for one in addresses if one and one != self._config.http_listen]

    def _say(self, sentence: str) -> None:
        """Once for each new reason."""
        if sentence and sentence != self._said:
            _log.warning("not heard by the leader: %s", sentence)
        self._said = sentence


async def stand_by(config: MasterConfig, files: StandbyFiles, record: StandbyRecord) -> bool:
    """Run until the leader has added this master (True) or a signal ends it (False). Raises
    ConfigError for a socket that it cannot have, OSError when the disk fails."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    clock, rng, tls = SystemClock(), random.Random(), own_tls(config)
    ask = PeerRequests(tls).ask
    renewal = None if tls is None else IdentityRenewal(Path(config.identity_dir), tls, clock, rng)
    note = no_note if renewal is None else renewal.note
    master = StandbyMaster(config, files, record, clock, rng, ask, note)
    app = StandbyApp(master.view, wants_certificates=tls is not None)
    http = HttpServer(app, end_process, Path(config.socket), config.http_listen, tls=tls)
    await http.start()
    try:
        _log.info("standing by %s", fields(member=record.member_id, cluster=config.cluster_id))
        notify.notify(os.environ, "READY=1", notify.status("standing by"))
        running = loop.create_task(master.run(), name="standby")
        beside: set[asyncio.Task[Any]] = {loop.create_task(stop.wait(), name="stop")}
        if renewal is not None:
            beside.add(loop.create_task(renewal.run(), name="identity"))
        follower = bus_follower(config, master.addresses, SystemClock(), tls)
        if follower is not None:
            beside.add(loop.create_task(follower.run(), name="bus users"))
        try:
            await asyncio.wait({running, *beside}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (running, *beside):
                task.cancel()
            await asyncio.wait({running, *beside})
        for task in (running, *beside):
            if not task.cancelled():
                task.result()
    finally:
        await http.stop()
    return master.record.takes_part and not stop.is_set()
