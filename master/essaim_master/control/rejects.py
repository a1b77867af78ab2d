"""Counts what cannot be understood, and says so at most once a second."""

import logging
from typing import Final

from essaim_shared.clock import Clock
from essaim_shared.log import fields

_log = logging.getLogger(__name__)

LOG_PERIOD_S: Final = 1.0


class Rejects:
    """Malformed messages: never fatal, never silent, never a flood in the log."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._logged_s: float | None = None
        self._unlogged = 0
        self.count = 0
        """Since the start."""

    def note(self, subject: str, reason: object) -> None:
        self.count += 1
        self._unlogged += 1
        now_s = self._clock.monotonic_s()
        if self._logged_s is not None and now_s - self._logged_s < LOG_PERIOD_S:
            return
        _log.warning(
            "malformed message ignored %s",
            fields(subject=subject, reason=reason, count=self._unlogged),
        )
        self._logged_s = now_s
        self._unlogged = 0
