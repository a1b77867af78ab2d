"""What a daemon tells its log and its service manager, how long it waits, how late its loop is."""

import asyncio
import io
import logging
import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from essaim_shared import log, notify
from essaim_shared.backoff import backoff_s
from essaim_shared.clock import BEAT_S, ManualClock, to_beat_s
from essaim_shared.errors import ConfigError
from essaim_shared.loop_lag import LAG_MAX_S, LoopLag

# log


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def format_record(for_journal: bool, level: int, message: str, *args: object) -> str:
    record = logging.LogRecord("essaim.bus", level, "x.py", 1, message, args, None)
    return log.LineFormatter(for_journal).format(record)


def test_fields_are_quoted_where_a_reader_would_be_misled() -> None:
    assert log.fields(server="nats://h1:4222", count=3) == "server=nats://h1:4222 count=3"
    assert log.fields(empty="", text="a b", none=None) == 'empty="" text="a b"'
    assert log.fields(reason='say "no"\n') == r'reason="say \"no\"\n"'
    assert log.fields(pair="a=b") == 'pair="a=b"'
    assert log.fields(escape="\x1b[31m") == r'escape="\x1b[31m"'
    assert len(log.fields(long="x" * 10_000)) < 3000


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, 7),
        (logging.INFO, 6),
        (logging.WARNING, 4),
        (logging.ERROR, 3),
        (logging.CRITICAL, 2),
    ],
)
def test_for_the_journal_a_line_begins_with_its_priority(level: int, priority: int) -> None:
    assert (
        format_record(True, level, "bus lost %s", "a=1") == f"<{priority}>essaim.bus: bus lost a=1"
    )


def test_elsewhere_a_line_begins_with_a_date() -> None:
    line = format_record(False, logging.WARNING, "bus lost")
    assert line.endswith(" warning essaim.bus: bus lost")
    assert line[4] == "-"


def test_an_event_is_one_line_even_with_a_traceback_or_a_forged_line_break() -> None:
    assert "\n" not in format_record(True, logging.INFO, "name %s", "x\n<2>forged")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("n", logging.ERROR, "x", 1, "failed", (), sys.exc_info())
    line = log.LineFormatter(True).format(record)
    assert "\n" not in line
    assert "ValueError: two" in line


def test_the_journal_is_recognised_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stream:
        status = os.fstat(stream.fileno())
        mine = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        inherited = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"}
        assert log.goes_to_journal(mine, stream)
        assert not log.goes_to_journal(inherited, stream)
        assert not log.goes_to_journal({}, stream)
        assert not log.goes_to_journal({"JOURNAL_STREAM": "8:x"}, stream)
        assert not log.goes_to_journal(mine, io.StringIO())


def test_set_up_sends_events_of_the_level_and_above(root_logger: logging.Logger) -> None:
    stream = io.StringIO()
    log.set_up("warning", {}, stream)
    logging.getLogger("essaim.test").info("hidden")
    logging.getLogger("essaim.test").warning("shown %s", log.fields(a=1))
    assert stream.getvalue().endswith("warning essaim.test: shown a=1\n")
    assert "hidden" not in stream.getvalue()
    assert root_logger.level == logging.WARNING
    with pytest.raises(ConfigError, match="choose one of debug, info"):
        log.set_up("loud", {}, stream)


# notify


@pytest.mark.parametrize("is_abstract", [False, True])
def test_states_reach_the_service_manager(tmp_path: Path, is_abstract: bool) -> None:
    address = f"@essaim-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if is_abstract else address)
        environment = {"NOTIFY_SOCKET": address}
        assert notify.notify(environment, notify.READY, notify.status("leader\nterm 7"))
        assert manager.recv(1000) == b"READY=1\nSTATUS=leader term 7"


def test_without_a_service_manager_nothing_is_sent() -> None:
    assert not notify.notify({}, notify.READY)


def test_a_service_manager_that_does_not_listen_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        notify.notify({"NOTIFY_SOCKET": str(tmp_path / "absent")}, notify.READY)


def test_the_watchdog_is_fed_twice_per_limit() -> None:
    assert notify.watchdog_period_s({"WATCHDOG_USEC": "30000000"}, pid=7) == 15.0
    assert notify.watchdog_period_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 7) == 15.0
    assert notify.watchdog_period_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 7) is None
    assert notify.watchdog_period_s({}, pid=7) is None
    assert notify.watchdog_period_s({"WATCHDOG_USEC": "soon"}, pid=7) is None


# backoff


def test_waits_double_up_to_the_most_and_differ_between_clients() -> None:
    seed = 11
    rng = random.Random(seed)
    print("seed", seed)
    for attempt, ceiling_s in enumerate([0.5, 1.0, 2.0, 4.0, 5.0, 5.0], start=1):
        waits = {backoff_s(attempt, rng, first_s=0.5, most_s=5.0) for _ in range(50)}
        assert all(ceiling_s / 2 <= wait_s <= ceiling_s for wait_s in waits)
        assert len(waits) == 50
    assert backoff_s(10**9, rng, 0.5, 5.0) <= 5.0


@pytest.mark.parametrize("arguments", [(0, 1.0, 2.0), (1, 0.0, 2.0), (1, 3.0, 2.0)])
def test_senseless_waits_are_refused(arguments: tuple[int, float, float]) -> None:
    attempt, first_s, most_s = arguments
    with pytest.raises(ValueError, match="attempt"):
        backoff_s(attempt, random.Random(1), first_s, most_s)


# loop lag


class BlockedClock(ManualClock):
    """A clock on which sleepers wake `extra_s` late, as behind a callback that blocks the loop."""

    extra_s = 0.0

    async def sleep(self, duration_s: float) -> None:
        await super().sleep(duration_s + self.extra_s)


async def test_a_late_loop_is_measured_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = BlockedClock()
    lag = LoopLag(clock)
    measuring = lag.start()
    await asyncio.sleep(0)
    await clock.advance(BEAT_S)
    assert (lag.late_count, lag.max_s) == (0, 0.0)
    clock.extra_s = 0.2
    await clock.advance(BEAT_S)  # the sleep under way began before the block
    await clock.advance(BEAT_S + 0.2)
    assert lag.late_count == 1
    assert lag.max_s == pytest.approx(0.2)
    assert "lag_ms=200" in caplog.text
    assert lag.take_max_s() == pytest.approx(0.2)
    assert lag.max_s == 0.0
    measuring.cancel()


def test_a_lag_at_the_limit_is_not_late() -> None:
    lag = LoopLag(ManualClock())
    lag.record(LAG_MAX_S)
    lag.record(-0.001)
    assert (lag.late_count, lag.last_s, lag.max_s) == (0, 0.0, LAG_MAX_S)


async def test_loops_that_sleep_to_the_beat_wake_together_whenever_they_began() -> None:
    clock = ManualClock()
    woken: list[tuple[str, float]] = []

    async def look_often(name: str) -> None:
        while True:
            await clock.sleep(to_beat_s(clock))
            woken.append((name, clock.monotonic_s()))

    first = asyncio.ensure_future(look_often("first"))
    await clock.advance(BEAT_S / 4)
    second = asyncio.ensure_future(look_often("second"))
    await clock.advance(0)
    await clock.advance(2 * BEAT_S)
    start_s = 1000.0
    assert woken == [
        (name, start_s + beat * BEAT_S) for beat in (1, 2) for name in ("first", "second")
    ]
    first.cancel()
    second.cancel()
