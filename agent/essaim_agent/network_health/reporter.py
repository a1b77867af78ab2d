"""Tells the masters how this node's networks are: every few seconds, and when something changes.

A report that is lost is replaced by the next one: nothing is repeated.
"""

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from essaim_agent.network import NetworkError, NetworkPicture
from essaim_agent.network_health.checked import Checked
from essaim_agent.network_health.prober import Prober
from essaim_agent.network_health.rounds import Answer, Findings, choose, peers_of
from essaim_shared.clock import Clock
from essaim_shared.ids import NodeId
from essaim_shared.limits import (
    NETWORK_REPORT_PERIOD_S,
    REPORTED_DIFFERENCES_MAX,
    REPORTED_SENTENCE_CHARS_MAX,
)
from essaim_shared.log import fields
from essaim_shared.messages import NetworkReport, encode
from essaim_shared.transport import BusDisconnected, Transport

_log = logging.getLogger(__name__)

REPORT_SPACING_S: Final = 1.0
"""Troubles that come and go all the time do not flood the bus."""


class CheckedNetworks(Protocol):
    """The networks of a node, seen by whoever watches over their health."""

    @property
    def picture(self) -> NetworkPicture: ...

    def on_checked(self, listener: Callable[[Checked], None]) -> None: ...

    async def inside(self, work: Callable[[], Any]) -> Any: ...


class NameServerHealth(Protocol):
    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with it now, in words; empty when names are answered."""
        ...

    @property
    def answers(self) -> int:
        """Since it started."""
        ...


class NetworkReporter:
    """`run` until cancelled. `networks` is None where tasks have no networks of their own."""

    def __init__(
        self,
        *,
        transport: Transport,
        subject: str,
        node_id: NodeId,
        networks: CheckedNetworks | None,
        may_tell: Callable[[], bool],
        clock: Clock,
        rng: random.Random,
        names: NameServerHealth | None = None,
        ask: Callable[[list[Any]], Awaitable[list[Answer]]] | None = None,
    ) -> None:
        """`may_tell` is whether this is the node that bears the id (a cloned disk is not). `ask`
        takes the place of the probes through the kernel."""
        self._transport = transport
        self._subject = subject
        self._node_id = node_id
        self._networks = networks
        self._names = names
        self._may_tell = may_tell
        self._clock = clock
        self._rng = rng
        if ask is None and networks is not None:
            ask = Prober(networks.inside, clock, rng).ask
        self._ask = ask
        self._checked = Checked()
        self._recent: deque[tuple[int, str]] = deque(maxlen=REPORTED_DIFFERENCES_MAX)
        """(number of the regular report that tells it, difference); it is told at once, too."""
        self._reports = 0
        """Those of the regular kind."""
        self._last_repair, self._repaired_ns = "", 0
        self._told: tuple[frozenset[str], int] = (frozenset(), 0)
        self._changed = asyncio.Event()
        self.repairs = 0
        self.findings = Findings()
        if networks is not None:
            networks.on_checked(self._note)

    @property
    def checked(self) -> Checked:
        """The last comparison."""
        return self._checked

    @property
    def picture(self) -> NetworkPicture:
        return NetworkPicture() if self._networks is None else self._networks.picture

    @property
    def dns_answers(self) -> int:
        return 0 if self._names is None else self._names.answers

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report_regularly(), name="network reports")
            group.create_task(self._report_changes(), name="network problems")

    async def _report_regularly(self) -> None:
        while True:
            await self.probe()
            await self._tell()
            self._reports += 1
            await self._clock.sleep(NETWORK_REPORT_PERIOD_S)

    async def _report_changes(self) -> None:
        while True:
            await self._changed.wait()
            await self._tell()
            await self._clock.sleep(REPORT_SPACING_S)
            self._changed.clear()
            self._look_for_change()

    async def probe(self) -> None:
        """Ask some peers through each network."""
        if self._networks is None or self._ask is None:
            return
        peers = peers_of(self._networks.picture)
        self.findings.keep_only(peers)
        chosen = choose(peers, self.findings.silent, self._rng)
        try:
            answers = await self._ask(chosen)
        except NetworkError as error:
            _log.warning("peers cannot be asked %s", fields(reason=error))
            return
        self.findings.note(answers)

    def report(self) -> NetworkReport:
        """As it would be told now."""
        checked, picture = self._checked, self.picture
        now_ns = self._clock.wall_ns()
        return NetworkReport(
            node_id=self._node_id,
            # Without networks there is nothing to compare, and nothing is not as wanted.
            checked_ns=checked.at_ns if self._networks is not None else now_ns,
            sent_ns=now_ns,
            repairs=self.repairs,
            differences=tuple(text for _, text in self._recent),
            last_repair=self._last_repair,
            repaired_ns=self._repaired_ns,
            problems=self._problems(),
            has_overlay=self._networks is not None,
            networks=len(picture.networks),
            endpoints=len(picture.endpoints),
            services=len(picture.services),
            dns_answers=self.dns_answers,
            connections=checked.connections,
            probes=self.findings.reported(),
        )

    def _note(self, checked: Checked) -> None:
        if checked.mended:
            self.repairs += len(checked.mended)
            sentences = [_cut(one) for one in checked.mended[:REPORTED_DIFFERENCES_MAX]]
            self._recent.extend((self._reports, sentence) for sentence in sentences)
            self._last_repair, self._repaired_ns = sentences[-1], checked.at_ns
        self._checked = checked
        self._look_for_change()

    def _problems(self) -> tuple[str, ...]:
        own = () if self._names is None else self._names.problems
        found = [*self._checked.problems, *own]
        shown = [_cut(one) for one in found[:REPORTED_DIFFERENCES_MAX]]
        if len(found) > len(shown):
            shown.append(f"and {len(found) - len(shown)} problems more: see the agent's log")
        return tuple(shown)

    def _look_for_change(self) -> None:
        if self._news() != self._told:
            self._changed.set()

    def _news(self) -> tuple[frozenset[str], int]:
        """What is told at once when it changes."""
        return frozenset(self._problems()), self.repairs

    async def _tell(self) -> None:
        while self._recent and self._recent[0][0] < self._reports:
            self._recent.popleft()
        self._told = self._news()
        if not self._may_tell():
            return
        with contextlib.suppress(BusDisconnected):
            await self._transport.publish(self._subject, encode(self.report()))


def _cut(sentence: str) -> str:
    most = REPORTED_SENTENCE_CHARS_MAX
    return sentence if len(sentence) <= most else f"{sentence[: most - 1]}…"
