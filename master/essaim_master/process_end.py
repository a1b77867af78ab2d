"""How a master ends when it must not go on: at once, with one clear line.

Nothing is flushed or sent on the way out. What counts is in the write-ahead log, and what is not
there was not acknowledged to anybody; a message that leaves now could say otherwise.
"""

import logging
import os

EXIT_STATUS_FATAL = 70
"""EX_SOFTWARE of sysexits.h; a supervisor restarts the master, which recovers from its log."""

_log = logging.getLogger(__name__)


def end_process(error: BaseException) -> None:
    """End this process because of `error`. Callable from any thread; does not return."""
    if isinstance(error, OSError):
        _log.critical(
            "the disk failed (%s): this master stops, since a sync that failed once can not be "
            "trusted again; look at the disk, then start it",
            error,
        )
    else:
        _log.critical(
            "an assumption of this master does not hold, it stops: %s: %s",
            type(error).__name__,
            error,
            exc_info=error,
        )
    logging.shutdown()
    os._exit(EXIT_STATUS_FATAL)
