"""Which manifest a tag names, asked so that nobody waits for a registry that is not there.

A question takes `LOOKUP_LIMIT_S` at most, name resolution included. A registry that does not
answer is not asked again for `AWAY_S`, and requests for the same image at the same time share one
question. At most `LOOKUPS_MAX` threads ask; name resolution may keep one longer than its question
waits.
"""

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from typing import Any, Final, Protocol

from essaim_master.images.answers import Credentials, Distribution
from essaim_master.images.errors import RegistryAway, RegistryError
from essaim_master.images.reference import ImageReference, split_reference
from essaim_shared.clock import Clock

LOOKUP_LIMIT_S: Final = 3.0
AWAY_S: Final = 60.0
LOOKUPS_MAX: Final = 16
HOSTS_REMEMBERED_MAX: Final = 256


class RegistryAsker(Protocol):
    def ask(
        self, reference: ImageReference, credentials: Credentials, limit_s: float
    ) -> Distribution:
        """Blocks. Raises RegistryError."""
        ...


class ImageResolver:
    """One per master."""

    def __init__(self, client: RegistryAsker, clock: Clock, unasked: Sequence[str] = ()) -> None:
        """`unasked`: registries, as they stand in image names, that are never asked for a
        service's digest; `docker.io` among them."""
        self._client = client
        self._clock = clock
        self._unasked = frozenset(unasked)
        self._away: dict[str, tuple[float, str]] = {}
        self._asking: dict[tuple[str, Credentials], asyncio.Task[Distribution]] = {}
        self._threads = 0

    def is_asked(self, image: str) -> bool:
        """Whether the configuration lets services of this image ask their registry."""
        return split_reference(image).domain not in self._unasked

    async def distribution(self, image: str, credentials: Credentials) -> Distribution:
        """What the image's registry says of it. Raises RegistryError, within LOOKUP_LIMIT_S."""
        reference = split_reference(image)
        until_s, reason = self._away.get(reference.domain, (0.0, ""))
        if self._clock.monotonic_s() < until_s:
            raise RegistryAway(reason)
        key = (image, credentials)
        asking = self._asking.get(key)
        if asking is None:
            asking = asyncio.ensure_future(self._ask(reference, credentials))
            self._asking[key] = asking
            asking.add_done_callback(lambda done: self._asked(key, done))
        # A client that goes away must not cancel the question of the others.
        return await asyncio.shield(asking)

    def _asked(self, key: tuple[str, Credentials], asked: "asyncio.Task[Distribution]") -> None:
        del self._asking[key]
        if not asked.cancelled():
            asked.exception()  # taken here too: perhaps nobody waits for it any more

    async def _ask(self, reference: ImageReference, credentials: Credentials) -> Distribution:
        domain = reference.domain
        if self._threads >= LOOKUPS_MAX:
            raise RegistryError(f"{domain} was not asked: {LOOKUPS_MAX} questions are under way")
        answer = self._in_a_thread(reference, credentials)
        limit = asyncio.ensure_future(self._clock.sleep(LOOKUP_LIMIT_S))
        either: tuple[asyncio.Future[Any], ...] = (answer, limit)
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise RegistryAway(f"{domain} does not answer within {LOOKUP_LIMIT_S:g} s")
            return answer.result()
        except RegistryAway as error:
            self._remember_away(domain, str(error))
            raise
        finally:
            limit.cancel()

    def _in_a_thread(
        self, reference: ImageReference, credentials: Credentials
    ) -> "asyncio.Future[Distribution]":
        """A thread that ends with the process: a pool's would keep it waiting for a name server."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Distribution] = loop.create_future()

        def settle(outcome: Distribution | RegistryError) -> None:
            self._threads -= 1
            if answer.done():
                return
            if isinstance(outcome, RegistryError):
                answer.set_exception(outcome)
                answer.exception()  # read by `_ask`, unless its time was up
            else:
                answer.set_result(outcome)

        def work() -> None:
            outcome: Distribution | RegistryError = RegistryError("the master's log tells why")
            try:
                outcome = self._client.ask(reference, credentials, LOOKUP_LIMIT_S)
            except RegistryError as error:
                outcome = error
            finally:
                with contextlib.suppress(RuntimeError):  # the loop has closed: the master ends
                    loop.call_soon_threadsafe(settle, outcome)

        self._threads += 1
        threading.Thread(target=work, name="registry", daemon=True).start()
        return answer

    def _remember_away(self, domain: str, reason: str) -> None:
        while len(self._away) >= HOSTS_REMEMBERED_MAX:
            del self._away[next(iter(self._away))]
        self._away[domain] = (self._clock.monotonic_s() + AWAY_S, reason)
