"""Connections that were turned away: counted for the metrics, and logged without flooding."""

import logging

LOGGED_MAX = 64
"""Each distinct refusal is logged once, up to so many, so that a wrong address, or somebody who
tries every door, floods no log."""

_log = logging.getLogger(__name__)


class Refusals:
    """Of one listening socket."""

    def __init__(self) -> None:
        self.count = 0
        self._logged: set[str] = set()

    def tell(self, text: str) -> None:
        """`text`: one line, whom and why."""
        self.count += 1
        if text not in self._logged and len(self._logged) < LOGGED_MAX:
            self._logged.add(text)
            _log.error("%s", text)
