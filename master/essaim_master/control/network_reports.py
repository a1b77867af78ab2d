"""The newest report of each node on its networks, on every master: what `net doctor` shows.

They never go through Raft. Agents publish to all masters; what is lost comes again in seconds. A
node that fell silent keeps its last report, for its age says how long; a node that was removed
takes it along.
"""

from collections.abc import Callable, Container, Mapping
from typing import Final

import msgspec

from essaim_master.control.rejects import Rejects
from essaim_shared.clock import Clock
from essaim_shared.errors import MalformedMessage
from essaim_shared.ids import NodeId
from essaim_shared.messages import NetworkReport, decode
from essaim_shared.subjects import Subjects
from essaim_shared.transport import Delivery, Subscription, Transport

NODES_MAX: Final = 10_000
REPORT_BYTES_MAX: Final = 64 * 1024
"""Twice what an agent sends at most; every master keeps one of each node."""


class ReceivedReport(msgspec.Struct, frozen=True):
    report: NetworkReport
    received_s: float
    """On this master's monotonic clock."""


class NetworkReports:
    def __init__(
        self,
        transport: Transport,
        subjects: Subjects,
        clock: Clock,
        nodes: Callable[[], Container[NodeId]],
    ) -> None:
        """`nodes`: those of the cluster now."""
        self._transport = transport
        self._subjects = subjects
        self._clock = clock
        self._nodes = nodes
        self._received: dict[NodeId, ReceivedReport] = {}
        self._subscription: Subscription | None = None
        self.rejects = Rejects(clock)

    async def start(self) -> None:
        self._subscription = await self._transport.subscribe(
            self._subjects.all_network_reports, self._receive
        )

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None

    def received(self) -> Mapping[NodeId, ReceivedReport]:
        self._forget_removed()
        return self._received

    async def _receive(self, delivery: Delivery) -> None:
        if len(delivery.payload) > REPORT_BYTES_MAX:
            self.rejects.note(delivery.subject, f"a report of {len(delivery.payload)} bytes")
            return
        try:
            report = decode(delivery.payload, NetworkReport)
        except MalformedMessage as error:
            self.rejects.note(delivery.subject, error)
            return
        if delivery.subject != self._subjects.network_report(report.node_id):
            self.rejects.note(delivery.subject, f"a report that names node {report.node_id}")
            return
        if report.node_id not in self._nodes():
            return  # removed, or not known here yet: the next report comes in seconds
        if report.node_id not in self._received and len(self._received) >= NODES_MAX:
            self._forget_removed()
            if len(self._received) >= NODES_MAX:
                return
        self._received[report.node_id] = ReceivedReport(report, self._clock.monotonic_s())

    def _forget_removed(self) -> None:
        nodes = self._nodes()
        for node_id in [node_id for node_id in self._received if node_id not in nodes]:
            del self._received[node_id]
