"""What works on the files of a stopped master is part of the master's package, and a process of
its own: the command line does not import it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

from essaim_cli.errors import CommandFailed

MODULE = "essaim_master.tools"


def run_tool(arguments: Sequence[str]) -> NoReturn:
    """Become the tool, with this terminal and its exit status."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", MODULE, *arguments])


def ask_tool(arguments: Sequence[str]) -> str:
    """What the tool prints. Raises CommandFailed with its own sentence."""
    command = [sys.executable, "-m", MODULE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandFailed(done.stderr.strip().removeprefix("essaim: "))
    return done.stdout.strip()
