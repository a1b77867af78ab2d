"""Names and files of a master that may stand by: no crash gives one name two disks."""

import random

import pytest

from essaim_master.at_rest.key_ring import RING_FILE, open_log_files
from essaim_master.raft.messages import Configuration
from essaim_master.standby.names import BASE_NAME_MAX, base_name, check_base_name, draw_name
from essaim_master.standby.record import (
    REMOVED_KEPT_MAX,
    Found,
    StandbyFiles,
    StandbyRecord,
    Start,
    decide_start,
)
from essaim_master.state.cluster import Member
from essaim_master.wal.reading import read_log
from essaim_master.wal.records import Identity
from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId

SEED = 34
NAME = MemberId("m4-00000001")
OTHER = MemberId("m4-00000002")


def identity(name: MemberId) -> Identity:
    return Identity("test", name, Configuration(()), "second-life")


@pytest.mark.parametrize(
    ("record", "logged", "is_first", "start"),
    [
        # The first start, of one of the first masters and of another.
        (None, None, True, Start.AS_CONFIGURED),
        (None, None, False, Start.WITH_NEW_NAME),
        # It ran before it was told to stand by when removed.
        (None, MemberId("m4"), True, Start.AS_CONFIGURED),
        (None, MemberId("m4"), False, Start.AS_CONFIGURED),
        (StandbyRecord(NAME), None, False, Start.STANDING_BY),
        (StandbyRecord(NAME, takes_part=True), NAME, False, Start.AS_MEMBER),
        # One of the first that was removed does not come back as what the file says.
        (StandbyRecord(NAME), None, True, Start.STANDING_BY),
        (StandbyRecord(NAME, takes_part=True), NAME, True, Start.AS_MEMBER),
        # Between the new log and the record that says so; between a new name and the old log's end.
        (StandbyRecord(NAME), NAME, False, Start.STANDING_BY),
        (StandbyRecord(OTHER), NAME, False, Start.STANDING_BY),
        # The disk with the log was lost, or another was put in its place.
        (StandbyRecord(NAME, takes_part=True), None, False, Start.WITH_NEW_NAME),
        (StandbyRecord(NAME, takes_part=True), OTHER, False, Start.WITH_NEW_NAME),
    ],
)
def test_what_is_on_the_disk_says_how_it_goes_on(record, logged, is_first, start) -> None:
    assert decide_start(Found(record, logged), is_first) is start


def test_what_is_written_is_found(tmp_path) -> None:
    files = StandbyFiles(tmp_path / "data")
    assert files.find() == Found(None, None)
    record = StandbyRecord(NAME, True, "second-life", (Member(MemberId("m1"), "a:1", "a:2"),))
    files.write(record)
    files.begin_log(identity(NAME))
    assert files.find() == Found(record, NAME)
    files.begin_log(identity(NAME))  # the same again is no harm


def test_a_removed_names_log_is_kept_for_a_while(tmp_path) -> None:
    files = StandbyFiles(tmp_path)
    files.set_log_aside()  # none there
    (tmp_path / "removed").mkdir()
    (tmp_path / "removed" / "notes").touch()  # not ours
    for number in range(1, 12):
        files.begin_log(identity(MemberId(f"m4-{number:08x}")))
        files.set_log_aside()
        assert files.find().logged is None
    kept = sorted(path.name for path in (tmp_path / "removed").iterdir())
    assert kept == ["10-m4-0000000a", "11-m4-0000000b", "notes"]
    assert len(kept) == REMOVED_KEPT_MAX + 1


def test_a_log_that_is_set_aside_takes_its_keys_along(tmp_path) -> None:
    files = StandbyFiles(tmp_path)
    files.begin_log(identity(NAME))
    files.set_log_aside()
    aside = tmp_path / "removed" / f"1-{NAME}"
    assert (aside / RING_FILE).stat().st_mode & 0o077 == 0
    looked_at = tmp_path / "looked_at"
    looked_at.mkdir()
    aside.rename(looked_at / "wal")
    (looked_at / "wal" / RING_FILE).rename(looked_at / RING_FILE)
    assert read_log(open_log_files(looked_at)).identity.member_id == NAME


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"{}", b'{"member_id":4}', b"[]"])
def test_a_damaged_record_is_said_and_nothing_is_guessed(tmp_path, content) -> None:
    (tmp_path / "standby.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"standby\.json: is damaged"):
        StandbyFiles(tmp_path).find()


def test_a_drawn_name_leads_back_to_the_configured_one() -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    for base in ("m4", "a", "h-1", "x" * BASE_NAME_MAX):
        drawn = draw_name(base, rng)
        assert drawn != draw_name(base, rng)
        assert base_name(drawn) == base
        assert len(drawn) <= 63
    assert base_name(MemberId("m4")) == "m4"


@pytest.mark.parametrize("base", ["", "m 4", "-m4", "m/4", "x" * (BASE_NAME_MAX + 1), "m4\n"])
def test_a_name_that_cannot_be_extended_is_refused(base) -> None:
    with pytest.raises(ConfigError, match="cannot name a master that stands by"):
        check_base_name(base)
