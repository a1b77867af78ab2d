"""Frames cut into pieces for the bus, and put together again on a bus that loses some."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from essaim_master.bus_pieces import (
    Piece,
    PieceReader,
    cut,
    decode_answer,
    decode_greeting,
    decode_piece,
    encode_piece,
)
from essaim_master.peer_frames import encode_proposals
from essaim_shared.errors import MalformedMessage
from essaim_shared.limits import BUS_CHUNK_BYTES_MAX

SIZES = (1, 100, BUS_CHUNK_BYTES_MAX - 20, BUS_CHUNK_BYTES_MAX, 3 * BUS_CHUNK_BYTES_MAX + 7)


def frame(number: int) -> bytes:
    (made,) = encode_proposals([bytes([number % 256]) * SIZES[number % len(SIZES)]])
    return made


def pieces_of(frames: list[bytes]) -> list[Piece]:
    return [
        Piece("m1", 1, 2, number, begins, data) for number, (begins, data) in enumerate(cut(frames))
    ]


def bodies(pieces: list[Piece]) -> list[bytes]:
    reader = PieceReader()
    return [bytes(found.body) for piece in pieces for found in reader.feed(piece)]


def test_all_frames_pass_whole_and_in_order() -> None:
    frames = [frame(number) for number in range(23)]
    pieces = pieces_of(frames)
    assert bodies(pieces) == [made[5:] for made in frames]
    assert max(len(piece.data) for piece in pieces) <= BUS_CHUNK_BYTES_MAX
    assert [decode_piece(encode_piece(piece)) for piece in pieces] == pieces


@given(lost=st.sets(st.integers(0, 60)), seed=st.integers(0, 2**32))
def test_whatever_is_lost_only_whole_frames_come_out(lost, seed) -> None:
    rng = random.Random(seed)
    frames = [frame(rng.randrange(256)) for _ in range(12)]
    kept = [piece for piece in pieces_of(frames) if piece.number not in lost]
    found = bodies(kept)
    sent = iter([made[5:] for made in frames])
    assert all(body in sent for body in found), "in order, none made up, none twice"


def test_behind_a_loss_it_goes_on_with_the_next_frame() -> None:
    pieces = pieces_of([frame(4), frame(4), frame(0)])
    del pieces[1]
    assert len(bodies(pieces)) == 2


def test_a_piece_without_its_beginning_is_not_used() -> None:
    assert bodies(pieces_of([frame(4)])[1:]) == []


@pytest.mark.parametrize("decode", [decode_piece, decode_greeting, decode_answer])
@pytest.mark.parametrize("noise", [b"", b"\xc1", b"\x93\x01", bytes(range(256))])
def test_noise_is_malformed(decode, noise) -> None:
    with pytest.raises(MalformedMessage):
        decode(noise)


def test_noise_inside_a_piece_is_malformed_and_does_not_stick() -> None:
    reader = PieceReader()
    with pytest.raises(MalformedMessage):
        list(reader.feed(Piece("m1", 1, 2, 0, True, b"\x00" * 9)))
    assert list(reader.feed(Piece("m1", 1, 2, 1, False, frame(0)))) == []
    assert len(list(reader.feed(Piece("m1", 1, 2, 2, True, frame(0))))) == 1
