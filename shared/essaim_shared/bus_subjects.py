"""The form of bus subjects, and what a subscription's pattern matches.

Rules of NATS (https://docs.nats.io/nats-concepts/subjects): tokens separated by dots; in a
pattern `*` stands for exactly one token and `>`, as the last, for one or more.
"""

import re

from essaim_shared.errors import BrokenInvariant, InvalidRequest
from essaim_shared.limits import BUS_MESSAGE_BYTES_MAX

_SUBJECT = re.compile(r"[^\s.*>]+(?:\.[^\s.*>]+)*")
_PATTERN = re.compile(r"(?:[^\s.*>]+|\*)(?:\.(?:[^\s.*>]+|\*))*(?:\.>)?|>")


def check_subject(subject: str) -> None:
    """Raises InvalidRequest. A node's name goes into subjects, and a line break in one would be
    a command of its own to the server."""
    if _SUBJECT.fullmatch(subject) is None:
        raise InvalidRequest(f"not a bus subject: {subject[:100]!r}")


def check_pattern(pattern: str) -> None:
    """Raises InvalidRequest."""
    if _PATTERN.fullmatch(pattern) is None:
        raise InvalidRequest(f"not a bus subject or pattern: {pattern[:100]!r}")


def check_size(payload: bytes) -> None:
    """Raises BrokenInvariant: senders cut what may be long (BUS_CHUNK_BYTES_MAX), since a server
    ends the connection of a client that sends more than it takes."""
    if len(payload) > BUS_MESSAGE_BYTES_MAX:
        raise BrokenInvariant(
            f"a bus message of {len(payload)} bytes; at most {BUS_MESSAGE_BYTES_MAX} pass"
        )


def is_pattern(pattern: str) -> bool:
    """Whether it can match more than one subject."""
    return "*" in pattern or pattern.endswith(">")


def matches(pattern: str, subject: str) -> bool:
    wanted = pattern.split(".")
    tokens = subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(
        want in ("*", token) for want, token in zip(wanted, tokens, strict=True)
    )
