"""The file of data keys: whole or not at all, and never without a key that something needs."""

import asyncio
import errno
import random
from contextlib import suppress
from pathlib import Path

import pytest

from essaim_master.at_rest.errors import DataKeyMissing
from essaim_master.at_rest.key_ring import RING_FILE, KeyRing, open_log_files, open_ring
from essaim_master.at_rest.ring import RING_KEYS_MAX, decode_ring, encode_ring
from essaim_master.at_rest.rotation import (
    DATA_KEY_AGE_S_MAX,
    LOOK_EVERY_S,
    NS_PER_S,
    KeyRotation,
    is_due,
)
from essaim_master.wal.memory_files import MemoryLogFiles
from essaim_shared.clock import ManualClock
from essaim_shared.errors import ConfigError, Conflict, Unavailable


class PowerCut(BaseException):
    pass


@pytest.fixture
def files() -> MemoryLogFiles:
    return MemoryLogFiles(random.Random(1).randbytes)


def ids(ring: KeyRing) -> list[bytes]:
    return [one.key.id for one in ring.keys]


def test_the_first_key_is_made_when_something_is_to_be_written(files) -> None:
    ring = files.keys
    assert ring.newest_id is None
    assert files.names() == []
    key = ring.take()
    assert ring.newest_id == key.id
    assert files.twin().keys.find(key.id, "it").id == key.id


def test_a_key_that_is_not_there_is_named_with_its_place(files) -> None:
    files.keys.ensure()
    with pytest.raises(DataKeyMissing) as raised:
        files.keys.find(b"\1\2\3\4", "snapshot 17")
    assert str(raised.value).startswith(
        "snapshot 17 is sealed with the data key 01020304, which is not in data_keys: put back"
    )


def test_after_a_rotation_the_new_key_is_written_with_and_the_old_one_still_reads(files) -> None:
    ring = files.keys
    old = ring.take()
    new = ring.rotate()
    assert ring.newest_id == new != old.id
    assert ring.find(old.id, "it").id == old.id
    assert ids(files.twin().keys) == [old.id, new]


def test_a_key_in_use_is_not_dropped_nor_is_the_newest(files) -> None:
    ring = files.keys
    old = ring.take().id
    new = ring.rotate()
    assert ring.droppable() == frozenset()
    ring.release(old)
    assert ring.droppable() == {old}
    ring.drop(frozenset((old, new)))
    assert ids(files.twin().keys) == [new]


def test_a_power_cut_at_any_step_of_a_rotation_leaves_the_old_ring_or_the_new_one(files) -> None:
    files.keys.ensure()
    kept = ids(files.keys)
    seen = set()
    for step in range(1, 9):
        copy = files.twin()
        left = step

        def cut() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise PowerCut

        copy.before_call = cut
        rotated = None
        with suppress(PowerCut):
            rotated = copy.keys.rotate()
        for seed in range(20):
            found = ids(copy.crash(random.Random(seed)).keys)
            assert found[0] == kept[0]
            assert rotated is None or found[1:] == [rotated]
            seen.add(len(found))
            copy.crash(random.Random(seed)).keys.rotate()  # leftovers are no hindrance
    assert seen == {1, 2}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: b"",
        lambda text: text[:-30],
        lambda text: text.replace(b'"id": "', b'"id": "00'),
        lambda text: text.replace(b'"key": "', b'"key": "AAAA'),
        lambda text: text.replace(b'"key": "', b'"key": "%'),
        lambda text: b"\xff" + text,
    ],
)
def test_a_damaged_ring_is_said_in_one_line_that_tells_no_key(files, spoil) -> None:
    files.keys.ensure()
    text = encode_ring(files.keys.keys)
    with pytest.raises(
        ConfigError, match=r"^here: the data keys in it are damaged: put back"
    ) as raised:
        decode_ring(spoil(text), "here")
    assert len(str(raised.value).splitlines()) == 1
    assert decode_ring(text, "here")[0].secret == files.keys.keys[0].secret


def test_a_ring_of_another_format_asks_for_its_version() -> None:
    with pytest.raises(ConfigError, match="has format 2, this version reads 1"):
        decode_ring(b'{"version": 2, "keys": []}', "here")


def test_nothing_that_is_printed_shows_a_key(files) -> None:
    files.keys.ensure()
    (one,) = files.keys.keys
    assert repr(one) == f"RingKey({one.key.id.hex()}, created_ns={one.created_ns})"
    assert one.secret.hex() not in repr(one.key)


def test_on_a_disk_it_is_a_file_of_its_own_beside_the_log(tmp_path: Path) -> None:
    files = open_log_files(tmp_path / "data")
    assert files.keys is not None
    files.keys.ensure()
    path = tmp_path / "data" / RING_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert files.names() == []
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=f"others may read these keys: run chmod 600 {path}"):
        open_ring(tmp_path / "data")


# When


def test_a_key_is_replaced_after_ninety_days_and_not_by_a_clock_that_went_back() -> None:
    age_ns = DATA_KEY_AGE_S_MAX * NS_PER_S
    assert not is_due(1000, 1000 + age_ns)
    assert is_due(1000, 1001 + age_ns)
    assert not is_due(1000, 0)


async def at_once(function, /, *arguments):
    return function(*arguments)


async def test_a_master_rotates_by_itself_and_when_it_is_told(files) -> None:
    clock = ManualClock()
    ring = KeyRing(files, RING_FILE, clock, random.Random(2).randbytes)
    ring.ensure()
    rotation = KeyRotation(ring, clock, at_once)
    asked = await rotation.rotate()
    assert ids(ring)[-1].hex() == asked
    running = asyncio.create_task(rotation.run())
    await clock.advance(DATA_KEY_AGE_S_MAX)
    assert ids(ring)[-1].hex() == asked
    files.fail("create", errno.ENOSPC)
    await clock.advance(2 * LOOK_EVERY_S)
    assert len(ids(ring)) == 3, "a full disk is no end of it: the next look has room"
    running.cancel()


async def test_a_full_disk_is_told_to_who_asked(files) -> None:
    files.keys.ensure()
    files.fail("create", errno.ENOSPC)
    with pytest.raises(Unavailable, match="No space left on device; the old one is used on"):
        await KeyRotation(files.keys, ManualClock(), at_once).rotate()
    assert len(ids(files.keys)) == 1


async def test_who_asks_again_and_again_is_refused_until_old_keys_are_dropped(files) -> None:
    ring = files.keys
    clock = ManualClock()
    rotation = KeyRotation(ring, clock, at_once)
    for _ in range(RING_KEYS_MAX):
        await rotation.rotate()
    full = ids(ring)
    with pytest.raises(Conflict, match=f"data_keys has {RING_KEYS_MAX} keys"):
        await rotation.rotate()
    assert ids(ring) == full == ids(files.twin().keys)
    running = asyncio.create_task(rotation.run())
    await clock.advance(DATA_KEY_AGE_S_MAX + LOOK_EVERY_S)
    assert ids(ring) == full
    ring.drop(ring.droppable())
    await clock.advance(LOOK_EVERY_S)
    assert ids(ring)[0] == full[-1]
    assert len(ids(ring)) == 2, "the look of every hour goes on after a refusal"
    running.cancel()
