"""`essaim-agent --config FILE`."""

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from essaim_agent.config import load_agent_config
from essaim_agent.main import run_agent
from essaim_shared import __version__, log
from essaim_shared.capabilities import AGENT, confine
from essaim_shared.errors import EssaimError

EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h: starting again will not help."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="essaim-agent", description="An Essaim agent.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--log-level", default="info", metavar="LEVEL")
    parser.add_argument("--check-config", action="store_true", help="Read the file and end.")
    parser.add_argument("--version", action="version", version=__version__)
    arguments = parser.parse_args()
    try:
        log.set_up(arguments.log_level, os.environ, sys.stderr)
        config = load_agent_config(arguments.config)
        if not arguments.check_config:
            if config.executor != "process":  # whose tasks may need what the agent does not
                confine(AGENT)
            asyncio.run(run_agent(config))
    except EssaimError as error:
        print(f"essaim-agent: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    # A pull in a thread cannot be cancelled, and the interpreter would wait for it for minutes.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
