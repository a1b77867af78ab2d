"""`python -m essaim_agent.shim`: for the lab and for deployment, which do not import the agent.

install    write the shim for one agent and print its path
register   name it in an engine's daemon.json as well; the engine must then be sent SIGHUP
"""

import argparse
import sys
from pathlib import Path

from essaim_agent.shim import DAEMON_JSON, install, register
from essaim_shared.errors import ConfigError


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m essaim_agent.shim")
    parser.add_argument("verb", choices=["install", "register"])
    parser.add_argument("--run-dir", type=Path, required=True, help="the agent's run_dir")
    parser.add_argument(
        "--directory", type=Path, help="where the shim is to stand (default: the run_dir)"
    )
    parser.add_argument("--daemon-json", type=Path, default=DAEMON_JSON)
    options = parser.parse_args(arguments)
    try:
        shim = install(options.directory or options.run_dir, options.run_dir)
        if options.verb == "register":
            register(shim, options.daemon_json)
    except (ConfigError, OSError) as error:
        print(f"essaim_agent.shim: {error}", file=sys.stderr)
        return 1
    print(shim)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
