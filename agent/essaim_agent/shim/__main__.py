"""For the lab and for Ansible, which prepare an engine before any agent runs.

    python -m essaim_agent.shim install --run-dir DIR [--directory DIR] [--runc PATH]
    python -m essaim_agent.shim register --shim PATH [--daemon-json FILE]

`install` prints the path of the installed shim.
"""

import argparse
import sys
from pathlib import Path

from essaim_agent.shim import DAEMON_JSON, install, register
from essaim_shared.errors import ConfigError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="essaim_agent.shim", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    installing = verbs.add_parser("install")
    installing.add_argument("--run-dir", type=Path, required=True, help="of the agent")
    installing.add_argument("--directory", type=Path, help="to install into (the run directory)")
    installing.add_argument("--runc", type=Path, help="found on the PATH unless given")
    registering = verbs.add_parser("register")
    registering.add_argument("--shim", type=Path, required=True)
    registering.add_argument("--daemon-json", type=Path, default=DAEMON_JSON)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.verb == "install":
            print(install(chosen.directory or chosen.run_dir, chosen.run_dir, chosen.runc))
        elif register(chosen.shim, chosen.daemon_json):
            print(f"{chosen.daemon_json} changed: send dockerd SIGHUP", file=sys.stderr)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
