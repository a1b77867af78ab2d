"""What works on the files of a stopped master is part of the master's package, and a process of
its own: the command line does not import it."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

MODULE = "essaim_master.tools"


def run_tool(arguments: Sequence[str]) -> NoReturn:
    """Become the tool, with this terminal and its exit status."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", MODULE, *arguments])
