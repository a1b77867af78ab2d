"""Frames of the native key-value protocol: what is written is read, whatever way it is cut."""

import itertools

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from essaim_shared.errors import MalformedMessage
from essaim_shared.kv_protocol import (
    ANSWER_FRAME_BYTES_MAX,
    REQUEST_FRAME_BYTES_MAX,
    Attribute,
    ClientFrameReader,
    CompareNumber,
    CompareValue,
    Delete,
    DeleteRange,
    Failure,
    FailureCode,
    Get,
    Greeting,
    KeyValue,
    MasterFrameReader,
    OpenSession,
    Ping,
    Pong,
    Put,
    Range,
    RangeAnswer,
    RangeRequest,
    RangeResult,
    Relation,
    SessionOpened,
    TransactionAnswer,
    TransactionRequest,
    Welcome,
    WriteResult,
    encode_frame,
)

numbers = st.integers(0, 2**63 - 1)
data = st.binary(max_size=40)
key_values = st.builds(KeyValue, data, data, numbers, numbers, numbers, numbers)
ranges = st.builds(Range, data, data, numbers)
operations = st.one_of(
    st.builds(Put, data, data, numbers, st.booleans()),
    st.builds(Get, data),
    st.builds(Delete, data),
    ranges,
    st.builds(DeleteRange, data, data, st.booleans()),
)
compares = st.one_of(
    st.builds(CompareNumber, data, st.sampled_from(Attribute), st.sampled_from(Relation), numbers),
    st.builds(CompareValue, data, st.sampled_from(Relation), data),
)


def several(elements):
    return st.lists(elements, max_size=4).map(tuple)


range_results = st.builds(RangeResult, several(key_values), numbers)
client_frames = st.one_of(
    st.builds(Greeting, numbers, st.text(max_size=10), numbers),
    st.builds(OpenSession, numbers, numbers),
    st.builds(
        TransactionRequest,
        numbers,
        numbers,
        several(compares),
        several(operations),
        several(operations),
    ),
    st.builds(RangeRequest, numbers, numbers, ranges, st.booleans()),
    st.builds(Ping, numbers),
)
master_frames = st.one_of(
    st.builds(
        Welcome,
        numbers,
        st.text(max_size=10),
        st.text(max_size=10),
        st.none() | st.just("m"),
        numbers,
    ),
    st.builds(SessionOpened, numbers, numbers),
    st.builds(
        TransactionAnswer,
        numbers,
        st.booleans(),
        numbers,
        several(st.none() | key_values),
        several(range_results | st.builds(WriteResult, numbers, several(key_values))),
    ),
    st.builds(RangeAnswer, numbers, numbers, range_results),
    st.builds(Pong, numbers),
    st.builds(Failure, numbers, st.sampled_from(FailureCode), st.text(max_size=20)),
)


def read_in_pieces(reader, stream: bytes, cuts: list[int]) -> list[object]:
    found = []
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    for start, end in itertools.pairwise(places):
        found += reader.feed(stream[start:end])
    return found


@given(st.lists(client_frames, max_size=6), st.lists(st.integers(0, 400), max_size=8))
def test_a_master_reads_what_a_client_wrote(frames, cuts):
    stream = b"".join(map(encode_frame, frames))
    assert read_in_pieces(ClientFrameReader(), stream, cuts) == frames


@given(st.lists(master_frames, max_size=6), st.lists(st.integers(0, 400), max_size=8))
def test_a_client_reads_what_a_master_wrote(frames, cuts):
    stream = b"".join(map(encode_frame, frames))
    assert read_in_pieces(MasterFrameReader(), stream, cuts) == frames


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_as_malformed(noise):
    for reader in (ClientFrameReader(), MasterFrameReader()):
        try:
            list(reader.feed(noise))
        except MalformedMessage:
            continue


def test_the_bytes_of_a_put_are_those_of_the_reference_page():
    frame = encode_frame(TransactionRequest(7, 5000, (), (Put(b"k", b"v"),), ()))
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert msgpack.unpackb(frame[4:]) == [3, 7, 5000, [], [["put", b"k", b"v", 0, False]], []]


def test_a_newer_client_may_say_more_at_the_end():
    body = msgpack.packb([5, 9, "a field of tomorrow"])
    frame = len(body).to_bytes(4, "big") + body
    assert list(ClientFrameReader().feed(frame)) == [Ping(9)]


@pytest.mark.parametrize(
    ("reader", "limit"),
    [(ClientFrameReader, REQUEST_FRAME_BYTES_MAX), (MasterFrameReader, ANSWER_FRAME_BYTES_MAX)],
)
def test_a_length_over_the_limit_is_refused_before_the_frame_is_there(reader, limit):
    assert list(reader().feed(limit.to_bytes(4, "big"))) == []
    with pytest.raises(MalformedMessage, match=f"a frame of {limit + 1} bytes"):
        list(reader().feed((limit + 1).to_bytes(4, "big")))


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x91\x63", b"\x92\x05\xa1x", msgpack.packb({"number": 1})]
)
def test_a_frame_that_is_none_of_the_protocol_is_malformed(body):
    with pytest.raises(MalformedMessage):
        list(ClientFrameReader().feed(len(body).to_bytes(4, "big") + body))


def test_a_large_frame_in_many_pieces_is_put_together():
    frame = TransactionRequest(1, 1, (), (Put(b"k", bytes(1_000_000)),), ())
    stream = encode_frame(frame)
    reader = ClientFrameReader()
    found = []
    for start in range(0, len(stream), 1000):
        found += reader.feed(stream[start : start + 1000])
    assert found == [frame]
