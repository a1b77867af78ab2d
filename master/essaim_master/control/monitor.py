"""Carries the failure detector out: echoes over the bus, verdicts into the state."""

import asyncio
import logging
from contextlib import suppress
from typing import Final, Literal

import msgspec

from essaim_master.control.guarded import GuardedWriter
from essaim_master.control.liveness import ECHO_PERIOD_S, FailureDetector, Verdicts
from essaim_master.control.sessions import SessionTable
from essaim_master.control.surroundings import Surroundings
from essaim_master.state.writes import Writes
from essaim_shared.clock import BEAT_S, to_beat_s
from essaim_shared.errors import MalformedMessage
from essaim_shared.ids import NodeId
from essaim_shared.limits import NODE_SILENCE_MAX_S
from essaim_shared.log import fields
from essaim_shared.messages import Echo, decode, encode
from essaim_shared.transport import BusDisconnected, Delivery

_log = logging.getLogger(__name__)

Judgement = Literal["down", "unknown"]

DOWN_MESSAGE: Final = f"no sign of life for {NODE_SILENCE_MAX_S:g} s"


class NodeMonitor:
    """Runs while this master leads."""

    def __init__(
        self,
        surroundings: Surroundings,
        writer: GuardedWriter,
        detector: FailureDetector,
        sessions: SessionTable,
    ) -> None:
        cluster = surroundings.cluster
        self._cluster = cluster
        self._writer = writer
        self._transport = surroundings.transport
        self._subject = surroundings.subjects.echo(cluster.member_id)
        self._clock = surroundings.clock
        self._detector = detector
        self._sessions = sessions
        self._number = 0
        self._withheld = ""
        self.writing = asyncio.Lock()
        """Held by whoever changes node statuses, so that a verdict and a registration cannot
        overtake each other."""
        for node_id, status in cluster.state.node_status.items():
            if status.state != "down":
                detector.watch(node_id)

    async def run(self) -> None:
        subscription = await self._transport.subscribe(self._subject, self._receive_echo)
        due_s = float("-inf")
        try:
            while True:
                now_s = self._clock.monotonic_s()
                if now_s >= due_s:
                    # One beat comes a little later than another.
                    due_s = now_s + ECHO_PERIOD_S - BEAT_S / 2
                    await self._send_echo()
                await self._judge()
                await self._clock.sleep(to_beat_s(self._clock))
        finally:
            await subscription.unsubscribe()

    async def _send_echo(self) -> None:
        self._number += 1
        echo = Echo(member_id=self._cluster.member_id, number=self._number)
        with suppress(BusDisconnected):  # that the echo does not return is the information
            await self._transport.publish(self._subject, encode(echo))

    async def _receive_echo(self, delivery: Delivery) -> None:
        with suppress(MalformedMessage):  # somebody else's noise is no echo
            echo = decode(delivery.payload, Echo)
            if echo.member_id == self._cluster.member_id and echo.number == self._number:
                self._detector.echo(self._clock.monotonic_s())

    async def _judge(self) -> None:
        verdicts = self._detector.verdicts(self._clock.monotonic_s())
        if verdicts.withheld != self._withheld:
            self._log_withheld(verdicts)
        if not verdicts.down and not verdicts.unknown:
            return
        async with self.writing:
            writes = Writes()
            for node_id in verdicts.down:
                self._declare(writes, node_id, "down", DOWN_MESSAGE)
            for node_id in verdicts.unknown:
                self._declare(writes, node_id, "unknown", verdicts.withheld)
            await self._writer.write(writes)

    def _declare(self, writes: Writes, node_id: NodeId, state: Judgement, message: str) -> None:
        """End the node's session and write its state, unless it registered meanwhile."""
        if self._detector.silence_s(node_id) < NODE_SILENCE_MAX_S:
            return
        self._sessions.close(node_id)
        status = self._cluster.state.node_status.get(node_id)
        if status is None:
            return
        _log.warning("node is %s %s", state, fields(node=node_id, reason=message))
        changed = msgspec.structs.replace(
            status, state=state, message=message, changed_ns=self._clock.wall_ns()
        )
        writes.put_node_status(node_id, changed)

    def _log_withheld(self, verdicts: Verdicts) -> None:
        self._withheld = verdicts.withheld
        if verdicts.withheld:
            _log.warning("no node is judged down %s", fields(reason=verdicts.withheld))
        else:
            _log.info("nodes are judged again")
