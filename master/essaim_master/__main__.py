"""`essaim-master --config FILE`."""

import argparse
import os
import sys
from pathlib import Path

from essaim_master.config import load_master_config
from essaim_master.malloc import keep_large_buffers
from essaim_master.standby.process import run_process
from essaim_shared import __version__, log
from essaim_shared.capabilities import MASTER, confine
from essaim_shared.errors import EssaimError

EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h: starting again will not help."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="essaim-master", description="An Essaim master.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--log-level", default="info", metavar="LEVEL")
    parser.add_argument("--check-config", action="store_true", help="Read the file and end.")
    parser.add_argument("--version", action="version", version=__version__)
    arguments = parser.parse_args()
    try:
        log.set_up(arguments.log_level, os.environ, sys.stderr)
        config = load_master_config(arguments.config)
        if not arguments.check_config:
            confine(MASTER)
            keep_large_buffers()
            run_process(config)
    except EssaimError as error:
        print(f"essaim-master: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)


if __name__ == "__main__":
    main()
