"""The data of secrets and configs, asked of the masters over HTTPS.

Any master answers from what it has applied. One that is a moment behind the leader does not know
of a new task yet and refuses: so a refusal counts only when more than half of the known masters
say so, and say so again after a pause.
"""

import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from essaim_agent.executor import Refused, Temporary
from essaim_agent.payloads.references import PayloadKey
from essaim_agent.payloads.source import PAYLOAD_BYTES_MAX
from essaim_shared.clock import Clock
from essaim_shared.errors import ConfigError, Unavailable
from essaim_shared.http_call import Answer, call
from essaim_shared.log import fields

_log = logging.getLogger(__name__)

MASTERS_ASKED_MAX: Final = 16
CALL_LIMIT_S: Final = 3.0
FETCH_LIMIT_S: Final = 15.0
"""After this no further master is asked; the call under way may take its own time."""
ROUNDS: Final = 2
ROUND_PAUSE_S: Final = 0.5
REFUSALS: Final = (403, 404)

Call = Callable[[str, str], Awaitable[Answer]]
"""(address of a master, path) → its answer. Raises Unavailable."""


class KnownMasters(Protocol):
    def __call__(self) -> Sequence[str]:
        """`HOST:PORT` of each master's API, the best known first."""
        ...


def calls_over(tls: Callable[[], ssl.SSLContext | None]) -> Call:
    """`tls` gives the present context, which is another after a renewal."""

    async def get(address: str, target: str) -> Answer:
        return await call(address, "GET", target, timeout_s=CALL_LIMIT_S, tls=tls())

    return get


class MasterPayloads:
    """A `PayloadSource`. No word of an answer's body becomes a word of an error."""

    def __init__(self, masters: KnownMasters, get: Call, clock: Clock) -> None:
        self._masters, self._get, self._clock = masters, get, clock
        self._answered = ""
        """The master that gave data last: those before it may be down."""

    async def fetch(self, key: PayloadKey, title: str) -> bytes:
        end_s = self._clock.monotonic_s() + FETCH_LIMIT_S
        masters, refusals = self._in_order(), 0
        for round_number in range(1, ROUNDS + 1):
            refusals = 0
            for address in masters:
                if self._clock.monotonic_s() >= end_s:
                    break
                answer = await self._ask(address, key, title)
                if answer is not None and answer.status == 200:
                    self._answered = address
                    return _data(answer, title)
                refusals += answer is not None and answer.status in REFUSALS
            if round_number < ROUNDS:
                await self._clock.sleep(ROUND_PAUSE_S)
        if refusals * 2 > len(masters):
            raise Refused(f"{title}: the masters know of no task of this node that uses it")
        raise Temporary(f"no master could be asked for {title}")

    def _in_order(self) -> tuple[str, ...]:
        known = sorted(self._masters(), key=lambda address: address != self._answered)
        return tuple(known[:MASTERS_ASKED_MAX])

    async def _ask(self, address: str, key: PayloadKey, title: str) -> Answer | None:
        try:
            answer = await self._get(address, f"/essaim/node/{key.kind}s/{key.id}/{key.number}")
        except (Unavailable, ConfigError) as error:
            _log.warning("%s", fields(asked_for=title, reason=str(error)))
            return None
        if answer.status != 200:
            _log.warning("%s", fields(asked_for=title, master=address, status=answer.status))
        return answer


def _data(answer: Answer, title: str) -> bytes:
    if len(answer.body) > PAYLOAD_BYTES_MAX:
        raise Refused(f"{title}: {len(answer.body)} bytes are more than {PAYLOAD_BYTES_MAX}")
    return answer.body


class NoIdentity:
    """The `PayloadSource` of an agent that has none: no master would give it a secret, ever."""

    async def fetch(self, key: PayloadKey, title: str) -> bytes:
        raise Refused(f"{title}: this node has no identity: let it join the cluster first")
