"""Durations, sizes and CPUs as `docker` reads and writes them."""

import pytest

from essaim_cli.units import (
    go_duration,
    human_duration,
    human_size,
    parse_cpus,
    parse_duration,
    parse_signed_size,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("10s", 10_000_000_000),
        ("1h30m", 5_400_000_000_000),
        ("500ms", 500_000_000),
        ("1.5s", 1_500_000_000),
        (".5s", 500_000_000),
        ("2us3ns", 2_003),
    ],
)
def test_durations(text, nanoseconds):
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 s", "1d", "10s10", "1e3s", "300000000h"])
def test_bad_durations_are_refused_with_an_example(text):
    with pytest.raises(ValueError, match="write for example"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64m", 64 << 20),
        ("1g", 1 << 30),
        ("1.5GiB", 3 << 29),
        ("2KB", 2048),
    ],
)
def test_sizes(text, size_bytes):
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "m", "-1m", "1x", "1mm", "0x10"])
def test_bad_sizes_are_refused(text):
    with pytest.raises(ValueError, match="invalid size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "nano"), [("0.5", 500_000_000), ("2", 2_000_000_000), ("0", 0)])
def test_cpus(text, nano):
    assert parse_cpus(text) == nano


@pytest.mark.parametrize("text", ["", "one", "-1", "nan", "inf", "0.0000000001"])
def test_bad_cpus_are_refused(text):
    with pytest.raises(ValueError, match="invalid number of CPUs"):
        parse_cpus(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (300, "5 minutes"),
        (3600, "About an hour"),
        (5 * 3600, "5 hours"),
        (72 * 3600, "3 days"),
        (21 * 86400, "3 weeks"),
        (90 * 86400, "3 months"),
        (3 * 365 * 86400, "3 years"),
    ],
)
def test_ages(seconds, text):
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0B"), (1536, "1.5KiB"), (25_165_824, "24MiB"), (2**50, "1024TiB")]
)
def test_shown_sizes(size_bytes, text):
    assert human_size(size_bytes) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (5, "5ns"),
        (1_500, "1.5µs"),
        (100_000_000, "100ms"),
        (1_500_000_000, "1.5s"),
        (90_000_000_000, "1m30s"),
        (3_600_000_000_000, "1h0m0s"),
        (-2_000_000_000, "-2s"),
    ],
)
def test_durations_are_written_as_go_does(nanoseconds, text):
    assert go_duration(nanoseconds) == text
    if nanoseconds >= 0:
        assert parse_duration(text) == nanoseconds


def test_a_size_without_limit():
    assert parse_signed_size("-1") == -1
    assert parse_signed_size("1k") == 1024


@pytest.mark.parametrize("parse", [parse_duration, parse_size, parse_cpus])
@pytest.mark.parametrize("number", ["9" * 20, "9" * 5000])
def test_numbers_beyond_64_bits_are_refused(parse, number) -> None:
    with pytest.raises(ValueError, match="invalid"):
        parse(number)
