"""Bytes that nobody of ours wrote, given to every decoder: a typed error comes out or a value, in
bounded time and memory, and nothing else.

    make fuzz                          # long
    ESSAIM_FUZZ_EXAMPLES=500 pytest tests/fuzz

A failure prints the bytes and the line that repeats it.
"""

import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fuzz_damage import BOMBS, hostile
from support.fuzz_decoders import DEADLINE, DECODERS, EXAMPLES

BOMB_MEMORY_BYTES_MAX = 16 * 1024 * 1024
"""Far more than the bombs weigh, far less than they promise."""

pytestmark = pytest.mark.timeout(max(120, EXAMPLES))


@pytest.mark.parametrize("name", DECODERS)
def test_a_good_sample_is_read(name: str) -> None:
    decoder = DECODERS[name]
    read = 0
    for sample in decoder.samples:
        try:
            decoder.decode(sample)
            read += 1
        except decoder.errors:
            continue
    assert read, "no sample is good: spoiling them would prove nothing"


@pytest.mark.parametrize("name", DECODERS)
@settings(
    max_examples=EXAMPLES,
    deadline=DEADLINE,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_only_typed_errors_come_out(name: str, data: st.DataObject) -> None:
    decoder = DECODERS[name]
    hostile_bytes = data.draw(hostile(decoder.samples))
    with suppress(*decoder.errors):
        decoder.decode(hostile_bytes)


@pytest.mark.parametrize("name", DECODERS)
def test_a_length_is_not_believed(name: str) -> None:
    """A few bytes that promise gigabytes, or nest without end, cost a few megabytes at most."""
    decoder = DECODERS[name]
    sample = decoder.samples[0]
    for bomb in BOMBS:
        for at in (0, 5, len(sample) // 2, len(sample)):
            tracemalloc.start()
            try:
                decoder.decode(sample[:at] + bomb + sample[at:])
            except decoder.errors:
                pass
            finally:
                _, peak_bytes = tracemalloc.get_traced_memory()
                tracemalloc.stop()
            assert peak_bytes < BOMB_MEMORY_BYTES_MAX, bomb[:20]
