"""Masters one version apart find each other; the bytes of version 1 are those that it sent."""

import pytest

from essaim_master.peer_frames import (
    OLDEST_PEER_PROTOCOL_VERSION,
    PEER_PROTOCOL_VERSION,
    SNAPSHOT_PROTOCOL_VERSION,
    FrameReader,
    Greeting,
    GreetingAnswer,
    LinkPurpose,
    decode_answer,
    decode_greeting,
    encode_answer,
    encode_greeting,
)
from essaim_shared.ids import MemberId

ONE, TWO = MemberId("m1"), MemberId("m2")
GREETING_OF_VERSION_1 = bytes.fromhex("00000013019401a9636c75737465722d31a26d31a26d32")
ANSWER_OF_VERSION_1 = bytes.fromhex("000000030291c0")


def only_frame(data: bytes):
    (frame,) = FrameReader().feed(data)
    return frame


def offer(oldest: int, newest: int) -> Greeting:
    return Greeting(oldest, "cluster-1", ONE, TWO, newest)


def test_the_greeting_of_version_1_is_understood_and_spoken_to_in_its_version():
    greeting = decode_greeting(only_frame(GREETING_OF_VERSION_1))
    assert greeting == Greeting(1, "cluster-1", ONE, TWO)
    assert greeting.common_version == 1
    assert greeting.purpose is LinkPurpose.MESSAGES


def test_an_answer_of_version_1_means_a_master_that_takes_no_snapshots():
    answer = decode_answer(only_frame(ANSWER_OF_VERSION_1))
    assert answer == GreetingAnswer(None, 1)
    assert answer.version < SNAPSHOT_PROTOCOL_VERSION


def test_version_1_finds_its_own_number_in_the_place_where_it_looks():
    """It compared the first field with 1, and skipped what it did not know."""
    sent = encode_greeting(offer(OLDEST_PEER_PROTOCOL_VERSION, PEER_PROTOCOL_VERSION))
    body = only_frame(sent).body
    assert bytes(body[1:2]) == bytes((1,))
    assert bytes(only_frame(GREETING_OF_VERSION_1).body[1:]) in bytes(body)


@pytest.mark.parametrize(
    ("oldest", "newest", "spoken"),
    [
        (PEER_PROTOCOL_VERSION - 1, PEER_PROTOCOL_VERSION, PEER_PROTOCOL_VERSION),
        (PEER_PROTOCOL_VERSION, PEER_PROTOCOL_VERSION + 1, PEER_PROTOCOL_VERSION),
        (PEER_PROTOCOL_VERSION - 2, PEER_PROTOCOL_VERSION - 1, PEER_PROTOCOL_VERSION - 1),
        (PEER_PROTOCOL_VERSION + 1, PEER_PROTOCOL_VERSION + 2, None),
        (PEER_PROTOCOL_VERSION - 3, PEER_PROTOCOL_VERSION - 2, None),
    ],
    ids=["the same", "one newer", "one older", "two newer", "two older"],
)
def test_which_version_is_spoken(oldest, newest, spoken):
    assert offer(oldest, newest).common_version == spoken


def test_the_agreed_version_comes_with_the_answer():
    answer = GreetingAnswer(None, PEER_PROTOCOL_VERSION)
    assert decode_answer(only_frame(encode_answer(answer))) == answer
