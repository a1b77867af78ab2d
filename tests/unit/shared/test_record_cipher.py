"""AES-256-GCM with nonces that no second writer repeats."""

import random

import pytest

from essaim_shared.errors import ConfigError
from essaim_shared.sealing import DataKey, SealError
from essaim_shared.trust.record_cipher import COUNTER_BYTES, SALT_BYTES, NonceSequence, RecordCipher

KEY = bytes(range(32))
NONCE = bytes(12)


def test_what_is_sealed_opens_with_the_same_key_nonce_and_context() -> None:
    sealed = RecordCipher(KEY).seal(NONCE, b"secret", b"here")
    assert RecordCipher(KEY).open(NONCE, memoryview(sealed), b"here") == b"secret"
    assert b"secret" not in sealed


@pytest.mark.parametrize(
    ("key", "nonce", "context", "spoil"),
    [
        (bytes(32), NONCE, b"here", 0),
        (KEY, b"\1" * 12, b"here", 0),
        (KEY, NONCE, b"there", 0),
        (KEY, NONCE, b"here", 1),
    ],
)
def test_anything_else_does_not_open(key, nonce, context, spoil) -> None:
    sealed = bytearray(RecordCipher(KEY).seal(NONCE, b"secret", b"here"))
    sealed[3] ^= spoil
    with pytest.raises(SealError, match="changed, or was moved"):
        RecordCipher(key).open(nonce, bytes(sealed), context)


@pytest.mark.parametrize("length", [0, 1, 15])
def test_what_is_shorter_than_a_tag_does_not_open(length) -> None:
    with pytest.raises(SealError):
        RecordCipher(KEY).open(NONCE, bytes(length), b"")


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="has 32 bytes, this one 16"):
        RecordCipher(bytes(16))


def test_this_is_the_cipher_of_the_standard() -> None:
    """Test case 14 of "The Galois/Counter Mode of Operation" (McGrew, Viega)."""
    sealed = RecordCipher(bytes(32)).seal(bytes(12), bytes(16), b"")
    assert sealed.hex() == "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"


def test_a_writer_counts_and_the_next_one_draws_another_salt() -> None:
    rng = random.Random(1)
    first, second = NonceSequence(rng.randbytes), NonceSequence(rng.randbytes)
    drawn = [sequence.next() for sequence in (first, second) for _ in range(1000)]
    assert len(set(drawn)) == len(drawn)
    assert {nonce[:SALT_BYTES] for nonce in drawn[:1000]} == {drawn[0][:SALT_BYTES]}
    assert drawn[1000][:SALT_BYTES] != drawn[0][:SALT_BYTES]


def test_a_counter_that_is_used_up_begins_again_under_another_salt() -> None:
    sequence = NonceSequence(random.Random(1).randbytes)
    first = sequence.next()
    sequence._count = 2 ** (8 * COUNTER_BYTES) - 1
    last, after = sequence.next(), sequence.next()
    assert last == first[:SALT_BYTES] + b"\xff" * COUNTER_BYTES
    assert after[SALT_BYTES:] == bytes(COUNTER_BYTES)
    assert after[:SALT_BYTES] != first[:SALT_BYTES]


def test_derived_keys_differ_by_purpose_and_by_salt_and_from_their_key() -> None:
    key = DataKey(KEY)
    derived = {key.derived(salt, purpose) for salt in (b"", b"s") for purpose in (b"a", b"b")}
    assert len(derived) == 4
    assert KEY not in derived
    assert key.derived(b"s", b"a") == DataKey(KEY).derived(b"s", b"a")
