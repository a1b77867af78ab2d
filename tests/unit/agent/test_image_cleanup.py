"""Which images go when the disk fills, and which never do."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from essaim_agent.executor import Temporary
from essaim_agent.image_cleanup import (
    CHECK_PERIOD_S,
    YOUNG_S,
    ImageCleanup,
    PulledImages,
    removal_order,
)
from essaim_shared.clock import ManualClock

YOUNG_NS = int(YOUNG_S * 1e9)


class Engine:
    """Images by name, each of the same size, on a disk of a hundred."""

    def __init__(self):
        self.images = {}
        self.in_use = set()
        self.refused = set()
        self.fill = 0
        self.error = None

    async def image_id(self, name):
        if self.error is not None:
            raise self.error
        return f"id of {name}" if name in self.images else None

    async def image_ids_in_use(self):
        return frozenset(f"id of {name}" for name in self.in_use)

    async def remove_image(self, name):
        if name in self.refused:
            return False
        self.fill -= self.images.pop(name)
        return True


class Site:
    def __init__(self, directory):
        self.clock = ManualClock()
        self.engine = Engine()
        self.pulled = PulledImages(directory, self.clock)
        self.cleanup = ImageCleanup(
            self.engine, self.pulled, lambda: self.engine.fill, self.clock, 85, 75
        )

    async def pull(self, name, size=5):
        self.engine.images[name] = size
        self.engine.fill += size
        self.pulled.pulled(name)
        await self.clock.advance(1)

    async def grow_old(self):
        await self.clock.advance(YOUNG_S + 1)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@given(
    ages_s=st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 2000)),
    in_use=st.sets(st.text(min_size=1, max_size=3)),
)
def test_the_longest_unused_go_first_and_neither_used_nor_young_ones_at_all(ages_s, in_use) -> None:
    now_ns = 10**15
    used = {name: now_ns - age_s * 10**9 for name, age_s in ages_s.items()}
    order = removal_order(used, in_use, now_ns)
    assert set(order) == {n for n, age_s in ages_s.items() if age_s >= YOUNG_S and n not in in_use}
    assert all(used[one] <= used[next_] for one, next_ in itertools.pairwise(order))


async def test_between_the_marks_nothing_happens(site) -> None:
    await site.pull("a", 85)
    await site.grow_old()
    assert await site.cleanup.check() == 0


async def test_above_the_high_mark_images_go_until_below_the_low_one(site) -> None:
    for name in "abcdef":
        await site.pull(name)
    await site.grow_old()
    site.engine.fill = 86
    site.pulled.used("a")
    assert await site.cleanup.check() == 3
    assert sorted(site.engine.images) == ["a", "e", "f"]
    assert site.engine.fill == 71


async def test_make_room_does_not_wait_for_the_high_mark(site) -> None:
    await site.pull("a")
    await site.grow_old()
    site.engine.fill = 80
    assert await site.cleanup.make_room() == 1


async def test_what_nobody_pulled_for_a_task_is_never_removed(site) -> None:
    site.engine.images["loaded by hand"] = 90
    site.engine.fill = 90
    site.pulled.used("loaded by hand")
    await site.grow_old()
    assert await site.cleanup.check() == 0
    assert site.engine.images


async def test_an_image_in_use_counts_as_used_now(site) -> None:
    await site.pull("a", 90)
    await site.grow_old()
    site.engine.in_use = {"a"}
    assert await site.cleanup.check() == 0
    site.engine.in_use = set()
    assert await site.cleanup.check() == 0, "its container has only just gone"
    await site.grow_old()
    assert await site.cleanup.check() == 1


async def test_an_image_that_the_engine_will_not_give_up_is_not_tried_again_at_once(site) -> None:
    await site.pull("a", 50)
    await site.pull("b", 40)
    await site.grow_old()
    site.engine.refused = {"a"}
    assert await site.cleanup.check() == 1
    assert sorted(site.engine.images) == ["a"]
    assert "a" in site.pulled.last_used_ns


async def test_an_image_that_somebody_else_removed_is_forgotten(site, tmp_path) -> None:
    await site.pull("a")
    await site.grow_old()
    del site.engine.images["a"]
    site.engine.fill = 99
    assert await site.cleanup.check() == 0
    assert dict(PulledImages(tmp_path, site.clock).last_used_ns) == {}


async def test_a_task_that_comes_for_an_image_during_the_clean_up_keeps_it(site) -> None:
    await site.pull("a", 45)
    await site.pull("b", 45)
    await site.grow_old()
    remove = site.engine.remove_image

    async def removing(name):
        site.pulled.used("b")
        return await remove(name)

    site.engine.remove_image = removing
    site.engine.fill = 200
    assert await site.cleanup.check() == 1
    assert sorted(site.engine.images) == ["b"]


async def test_an_engine_that_is_away_is_asked_again_in_the_next_round(site, caplog) -> None:
    await site.pull("a", 90)
    await site.grow_old()
    site.engine.error = Temporary("the engine does not answer")
    running = asyncio.create_task(site.cleanup.run())
    await site.clock.advance(1)
    assert "the engine does not answer" in caplog.text
    site.engine.error = None
    await site.clock.advance(CHECK_PERIOD_S)
    assert not site.engine.images
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_list_of_pulled_images_outlives_the_agent(site, tmp_path) -> None:
    await site.pull("r.test/web:1")
    again = PulledImages(tmp_path, site.clock)
    assert dict(again.last_used_ns) == dict(site.pulled.last_used_ns)


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": "b"}', b"\xff\xfe"])
def test_a_damaged_list_is_begun_anew_and_removes_nothing(tmp_path, content, caplog) -> None:
    (tmp_path / "images").write_bytes(content)
    assert dict(PulledImages(tmp_path, ManualClock()).last_used_ns) == {}
    assert "damaged" in caplog.text
