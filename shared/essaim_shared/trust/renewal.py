"""Keeps the identity of one process good while it runs: its certificate, and whom it believes.

A certificate is renewed at a random moment between 50 and 80 percent of its life, so that a
cluster's nodes do not all ask at once; and within two seconds when the cluster's trust anchors are
of another generation than those on disk (the authority is being replaced). Each renewal is for a
new key. What cannot be renewed now is tried again: meanwhile everything works on.

    ask with the present certificate → write the files → take them over → confirm with the new one

Only after that does `identity.json` have the new generation: whoever crashes in between asks again.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Final

import msgspec

from essaim_shared.backoff import backoff_s
from essaim_shared.clock import Clock, pause
from essaim_shared.errors import ConfigError, EssaimError, Unavailable
from essaim_shared.http_call import Answer, call, reason_of
from essaim_shared.log import fields
from essaim_shared.trust.apart import look_at, make_request
from essaim_shared.trust.identity import (
    OWN_FILE,
    About,
    read_identity,
    write_about,
    write_authorities,
    write_own,
)
from essaim_shared.trust.joining import (
    CONFIRM_TARGET,
    RENEW_TARGET,
    ConfirmRequest,
    RenewAnswer,
    RenewRequest,
)
from essaim_shared.trust.tls import Tls
from essaim_shared.undecodable import UNDECODABLE

RENEW_FROM: Final = 0.5
RENEW_UNTIL: Final = 0.8
"""Of a certificate's life."""
PAUSE_SHARE: Final = 0.05
"""Of the same, from one renewal to the next at least: by a clock that is ahead of the masters' the
new certificate may be due as well."""
SPREAD_S: Final = 2.0
"""Over which a cluster's processes spread when all have to ask."""
CALL_TIMEOUT_S: Final = 10.0
RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 60.0
REFUSED_PAUSE_S: Final = 600.0
"""Before somebody who was refused asks again: that takes a person who changes something."""
LOOK_AGAIN_S: Final = 600.0
"""A machine that slept, or whose clock was set, sees so soon what is due."""
MASTERS_MAX: Final = 32

_log = logging.getLogger(__name__)


class Refused(EssaimError):
    """A master has read the request and says no."""


class IdentityRenewal:
    """One per process; `run` it as long as that lives."""

    def __init__(
        self,
        directory: Path,
        tls: Tls,
        clock: Clock,
        rng: random.Random,
        on_renewed: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_renewed` is called when the files have changed and `tls` has taken them over.
        Raises ConfigError for a directory that cannot be read."""
        self._directory = directory
        self._tls = tls
        self._clock = clock
        self._rng = rng
        self._on_renewed = on_renewed
        self._about = read_identity(directory).about
        self._wanted = self._about.generation
        self._masters = self._about.masters
        self._changed = asyncio.Event()
        self._said = ""

    @property
    def about(self) -> About:
        return self._about

    @property
    def masters(self) -> tuple[str, ...]:
        return self._masters

    def note(self, generation: int, masters: Iterable[str] = ()) -> None:
        """What the cluster says of itself: the generation of its trust anchors (0: it has none),
        and where its masters are (empty: not said)."""
        known = tuple(masters)[:MASTERS_MAX] or self._masters
        if (generation or self._wanted, known) != (self._wanted, self._masters):
            self._wanted = generation or self._wanted
            self._masters = known
            self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        due_ns = await self._due_ns()
        while True:
            self._changed.clear()
            self._write_masters()
            if self._wanted != self._about.generation:
                await self._clock.sleep(self._rng.uniform(0, SPREAD_S))
            elif (left_ns := due_ns - self._clock.wall_ns()) > 0:
                await pause(self._clock, min(left_ns / 1e9, LOOK_AGAIN_S), self._changed)
                continue
            await self._renew_at_last()
            due_ns = await self._due_ns(self._clock.wall_ns())

    async def _renew_at_last(self) -> None:
        attempt = 0
        while True:
            attempt += 1
            try:
                await self.renew()
                self._said = ""
                return
            except Refused as error:
                pause_s = REFUSED_PAUSE_S
                self._say(f"refused: {error}")
            except (Unavailable, ConfigError, OSError) as error:
                pause_s = backoff_s(attempt, self._rng, RETRY_FIRST_S, RETRY_MOST_S)
                self._say(str(error))
            await self._clock.sleep(pause_s)

    async def renew(self) -> None:
        """Once. Raises Refused, Unavailable (also for an outcome that is unknown: the certificate
        of that answer is then never used), ConfigError and OSError for files."""
        look = await look_at(self._directory / OWN_FILE)
        made = await make_request(self._about.name)
        request = RenewRequest(request_pem=made.request_pem, addresses=look.addresses)
        answer = _decoded(await self._ask(RENEW_TARGET, request))
        await asyncio.to_thread(self._write, made.key_pem, answer)
        self._tls.reload()
        self._on_renewed()
        await self.confirm(answer.generation)
        self._masters = answer.masters[:MASTERS_MAX] or self._masters
        self._about = msgspec.structs.replace(
            self._about, generation=answer.generation, masters=self._masters
        )
        await asyncio.to_thread(write_about, self._directory, self._about)
        self._wanted = max(self._wanted, answer.generation)
        _log.info(
            "the certificate is renewed %s",
            fields(name=self._about.name, generation=answer.generation),
        )

    async def confirm(self, generation: int | None = None) -> None:
        """Say that certificate and anchors (those on disk, if none are named) are in use. Raises
        Refused (also when this process was removed), Unavailable."""
        taken = self._about.generation if generation is None else generation
        await self._ask(CONFIRM_TARGET, ConfirmRequest(generation=taken))

    def _write(self, key_pem: str, answer: RenewAnswer) -> None:
        write_authorities(self._directory, answer.authorities_pem.encode())
        write_own(self._directory, (key_pem + answer.certificate_pem).encode())

    async def _ask(self, target: str, body: msgspec.Struct) -> Answer:
        """The first master that has an answer, in any order. Raises Refused, Unavailable."""
        masters = list(self._masters)
        self._rng.shuffle(masters)
        last: Unavailable = Unavailable("no master is known: name them in identity.json")
        for address in masters:
            try:
                answer = await call(
                    address,
                    "POST",
                    target,
                    timeout_s=CALL_TIMEOUT_S,
                    body=msgspec.json.encode(body),
                    tls=self._tls.client,
                )
            except Unavailable as error:
                last = error
                continue
            if answer.status == HTTPStatus.OK:
                return answer
            sentence = reason_of(answer)
            if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                raise Refused(sentence)
            last = Unavailable(f"the master at {address} answered {answer.status}: {sentence}")
        raise last

    async def _due_ns(self, renewed_ns: int = 0) -> int:
        """`renewed_ns`: when that was done last, if it was."""
        try:
            look = await look_at(self._directory / OWN_FILE)
        except ConfigError as error:
            self._say(str(error))
            return 0
        share = self._rng.uniform(RENEW_FROM, RENEW_UNTIL)
        life_ns = look.expires_ns - look.made_ns
        due_ns = look.made_ns + int(life_ns * share)
        return max(due_ns, renewed_ns + int(life_ns * PAUSE_SHARE)) if renewed_ns else due_ns

    def _write_masters(self) -> None:
        """So that the next process of this identity knows them. Not knowing them is no loss that
        is worth ending for."""
        if self._about.masters == self._masters:
            return
        self._about = msgspec.structs.replace(self._about, masters=self._masters)
        try:
            write_about(self._directory, self._about)
        except OSError as error:
            _log.warning("where the masters are was not written down: %s", error)

    def _say(self, reason: str) -> None:
        """Once for each new reason."""
        if reason != self._said:
            _log.error(
                "the certificate is not renewed, everything goes on meanwhile %s",
                fields(name=self._about.name, reason=reason),
            )
        self._said = reason


def _decoded(answer: Answer) -> RenewAnswer:
    try:
        return msgspec.json.decode(answer.body, type=RenewAnswer)
    except UNDECODABLE as error:
        raise Unavailable(f"a master answered what is no renewal: {error}") from error
