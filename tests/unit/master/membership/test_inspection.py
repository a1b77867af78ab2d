"""What people are shown of bytes: decoded without our types."""

import msgspec

from essaim_master.inspection import decoded, entry_object, stored_object
from essaim_master.kv.commands import (
    Command,
    CompareRevision,
    Delete,
    ProposalId,
    Put,
    Transaction,
    encode_command,
)
from essaim_master.raft.configurations import encode
from essaim_master.raft.messages import Configuration, Entry, EntryKind
from essaim_shared.objects import ClusterInfo


def entry(kind: EntryKind, data: bytes) -> Entry:
    return Entry(3, 17, kind, data)


def test_a_command_is_shown_with_who_proposed_what() -> None:
    transaction = Transaction(
        (CompareRevision(b"/a", 0),), (Put(b"/a", b"one"), Delete(b"/b")), (Put(b"/c", b"\xff"),)
    )
    shown = entry_object(
        entry(EntryKind.NORMAL, encode_command(Command(ProposalId("client", 5), 1, transaction)))
    )
    assert (shown["Index"], shown["Term"], shown["Kind"]) == (17, 3, "normal")
    assert shown["Summary"] == "client/5 if 1 hold put /a, delete /b else put /c"
    assert shown["Content"][2][2][0][:3] == ["put", "/c", "0xff"]
    assert msgspec.json.encode(shown)


def test_a_configuration_names_voters_and_learners() -> None:
    shown = entry_object(
        entry(EntryKind.CONFIGURATION, encode(Configuration(("m1", "m2"), learners=("m3",))))
    )
    assert shown["Summary"] == "voters m1, m2; learners m3"


def test_the_entry_of_a_new_leader_has_no_content() -> None:
    shown = entry_object(entry(EntryKind.NO_OP, b""))
    assert (shown["Summary"], shown["Content"]) == ("the leader of a new term", None)


def test_bytes_that_are_no_command_are_shown_nevertheless() -> None:
    for data in (b"\xc1\xc1", b"plain words", b"\x01"):
        shown = entry_object(entry(EntryKind.NORMAL, data))
        assert shown["Summary"] == "not a command of this build"
        assert msgspec.json.encode(shown)


def test_objects_are_shown_as_objects_and_values_of_users_as_text() -> None:
    info = msgspec.msgpack.encode(ClusterInfo(id="lab", created_ns=5))
    assert stored_object(b"/cluster/info", info)["Value"] == {"id": "lab", "created_ns": 5}
    assert stored_object(b"/kv/color", b"blue")["Value"] == "blue"
    assert stored_object(b"/kv/\xff", b"\x00\x01") == {
        "Key": "0x2f6b762fff",
        "Bytes": 2,
        "Value": "0x0001",
    }
    assert decoded(b"") is None
