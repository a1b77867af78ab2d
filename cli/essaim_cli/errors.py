"""How a failed command ends: one line on stderr, and Swarm's exit codes."""

import click

EXIT_FAILURE = 1
EXIT_USAGE = 125
"""A bad flag or argument, as `docker` has it."""


class CommandFailed(click.ClickException):
    """The command was understood and did not succeed: what, why, what next, in one line."""

    exit_code = EXIT_FAILURE


class ApiError(CommandFailed):
    """A master's refusal, in its own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class MasterUnreachable(CommandFailed):
    """No master answered at the address: what was asked did not happen."""


class BrokenOff(MasterUnreachable):
    """A master may have heard the request, and its answer did not come."""


def usage(message: str) -> click.UsageError:
    return click.UsageError(message)
