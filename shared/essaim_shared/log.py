"""Logging of the daemons: one line per event, `words key=value …`, on standard error.

Under systemd the line starts with the priority that sd-daemon(3) defines (`<4>` for a warning)
and carries no date, since the journal has its own; elsewhere it starts with a date.

    _log = logging.getLogger(__name__)
    _log.warning("connection to the bus lost %s", fields(server=server, reason=reason))
"""

import logging
import os
import re
from collections.abc import Mapping
from typing import Final, TextIO

from essaim_shared.errors import ConfigError

_PLAIN_VALUE = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")

_VALUE_CHARS_MAX: Final = 2000
"""A longer value is cut: a line of the log is not the place for a payload."""

_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def fields(**values: object) -> str:
    """`key=value` pairs in the order given; a value with spaces or quotes is quoted, and None is
    left out."""
    return " ".join(
        f"{key}={_quoted(str(value))}" for key, value in values.items() if value is not None
    )


def _quoted(text: str) -> str:
    if len(text) > _VALUE_CHARS_MAX:
        text = text[:_VALUE_CHARS_MAX] + "…"
    return text if _PLAIN_VALUE.fullmatch(text) else f'"{_one_line(text, _ESCAPES)}"'


def _one_line(text: str, escapes: Mapping[str, str]) -> str:
    return "".join(
        escapes.get(char, char if char.isprintable() else f"\\x{ord(char):02x}") for char in text
    )


_LINE_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class LineFormatter(logging.Formatter):
    """One record, one line: a traceback's line breaks are written as `\\n`, so that neither the
    journal nor a log collector tears an event into pieces (nor takes a forged line for one)."""

    def __init__(self, for_journal: bool) -> None:
        super().__init__(datefmt="%Y-%m-%dT%H:%M:%S%z")
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.name}: {record.getMessage()}"
        if record.exc_info:
            line += f" traceback={_quoted(self.formatException(record.exc_info))}"
        line = _one_line(line, _LINE_ESCAPES)
        if self._for_journal:
            return f"<{_priority(record.levelno)}>{line}"
        return f"{self.formatTime(record, self.datefmt)} {record.levelname.lower()} {line}"


def _priority(level: int) -> int:
    """syslog(3)'s priority of a logging level: 7 debug, 6 info, 4 warning, 3 error, 2 critical."""
    if level >= logging.CRITICAL:
        return 2
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7


def goes_to_journal(environment: Mapping[str, str], stream: TextIO) -> bool:
    """Whether `stream` is connected to systemd's journal: `$JOURNAL_STREAM` holds the device and
    inode of the socket that it gave us (systemd.exec(5)). The variable alone says nothing, for
    children whose output was redirected inherit it too."""
    device, separator, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    if not separator or not device.isdecimal() or not inode.isdecimal():
        return False
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # no file behind it, io.UnsupportedOperation included
        return False
    return (status.st_dev, status.st_ino) == (int(device), int(inode))


def set_up(level: str, environment: Mapping[str, str], stream: TextIO) -> None:
    """Send every logger's events to `stream`. Raises ConfigError for an unknown level."""
    if level not in LEVELS:
        raise ConfigError(f"unknown log level {level!r}: choose one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(goes_to_journal(environment, stream)))
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
