"""Nobody waits for a registry that is not there, and one question serves all who ask it."""

import asyncio
import threading

import pytest

from essaim_master.images.answers import Credentials, Descriptor, Distribution
from essaim_master.images.errors import AccessDenied, RegistryAway, RegistryError
from essaim_master.images.resolver import AWAY_S, LOOKUP_LIMIT_S, LOOKUPS_MAX, ImageResolver
from essaim_shared.clock import ManualClock, SystemClock, wait_until

FOUND = Distribution(Descriptor("m", "sha256:" + "a" * 64, 1), ())
NOBODY = Credentials()
PATIENCE_S = 10.0


class ScriptedRegistries:
    """Answers with what it is given; held back until `release` if it is `held`."""

    def __init__(self, outcome=FOUND, held=False):
        self.outcome = outcome
        self.asked = []
        self.release = threading.Event()
        if not held:
            self.release.set()

    def ask(self, reference, credentials, limit_s):
        self.asked.append(reference)
        self.release.wait(PATIENCE_S)
        if isinstance(self.outcome, RegistryError):
            raise self.outcome
        return self.outcome


async def test_what_the_registry_says_is_passed_on() -> None:
    resolver = ImageResolver(ScriptedRegistries(), SystemClock())
    assert await resolver.distribution("r.test/web:1", NOBODY) == FOUND


async def test_a_registry_that_is_away_is_asked_again_only_after_a_while() -> None:
    clock, registries = ManualClock(), ScriptedRegistries(RegistryAway("r.test: refused"))
    resolver = ImageResolver(registries, clock)
    for image in ("r.test/web:1", "r.test/api:1"):
        with pytest.raises(RegistryAway, match="refused"):
            await resolver.distribution(image, NOBODY)
    assert len(registries.asked) == 1
    with pytest.raises(RegistryAway):
        await resolver.distribution("other.test/web:1", NOBODY)
    assert len(registries.asked) == 2, "another registry has nothing to do with it"
    await clock.advance(AWAY_S + 1)
    registries.outcome = FOUND
    assert await resolver.distribution("r.test/web:1", NOBODY) == FOUND


async def test_a_refusal_is_no_absence() -> None:
    registries = ScriptedRegistries(AccessDenied("no"))
    resolver = ImageResolver(registries, ManualClock())
    for _ in range(2):
        with pytest.raises(AccessDenied):
            await resolver.distribution("r.test/web:1", NOBODY)
    assert len(registries.asked) == 2


async def test_a_question_that_hangs_is_given_up_in_time() -> None:
    clock, registries = ManualClock(), ScriptedRegistries(held=True)
    resolver = ImageResolver(registries, clock)
    asking = asyncio.create_task(resolver.distribution("r.test/web:1", NOBODY))
    assert await wait_until(lambda: bool(registries.asked), SystemClock(), PATIENCE_S)
    await clock.advance(LOOKUP_LIMIT_S + 0.1)
    with pytest.raises(RegistryAway, match="does not answer within 3 s"):
        await asking
    registries.release.set()


async def test_one_question_serves_all_who_ask_it_at_the_same_time() -> None:
    registries = ScriptedRegistries(held=True)
    resolver = ImageResolver(registries, SystemClock())
    asking = [asyncio.create_task(resolver.distribution("r.test/web:1", NOBODY)) for _ in range(50)]
    with_others = asyncio.create_task(
        resolver.distribution("r.test/web:1", Credentials(username="alice"))
    )
    assert await wait_until(lambda: len(registries.asked) == 2, SystemClock(), PATIENCE_S)
    asking[0].cancel()
    registries.release.set()
    assert await asyncio.gather(*asking[1:], with_others) == [FOUND] * 50
    assert len(registries.asked) == 2


async def test_threads_are_bounded_and_come_back() -> None:
    registries = ScriptedRegistries(held=True)
    resolver = ImageResolver(registries, SystemClock())
    asking = [
        asyncio.create_task(resolver.distribution(f"r.test/web:{number}", NOBODY))
        for number in range(LOOKUPS_MAX)
    ]
    assert await wait_until(lambda: len(registries.asked) == LOOKUPS_MAX, SystemClock(), PATIENCE_S)
    with pytest.raises(RegistryError, match="under way"):
        await resolver.distribution("r.test/one-more:1", NOBODY)
    registries.release.set()
    await asyncio.gather(*asking)
    assert await resolver.distribution("r.test/one-more:1", NOBODY) == FOUND


def test_registries_can_be_left_alone_by_name() -> None:
    resolver = ImageResolver(ScriptedRegistries(), ManualClock(), unasked=("docker.io",))
    assert [resolver.is_asked(image) for image in ("busybox", "team/app:1", "r.test/app")] == [
        False,
        False,
        True,
    ]
