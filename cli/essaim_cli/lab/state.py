"""Where labs are on this machine, and the one small file by which others find a running lab.

RUN_ROOT/NAME/lab.json is written before anything else is made and removed last, so a lab that
was interrupted half-way is still known. `lab down` does not depend on it. The CLI reads it to
find a master. This module stays cheap to import: the CLI does it on every call.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from essaim_cli.lab.errors import LabError
from essaim_cli.lab.topology import ExecutorName, Topology, plan_lab

STATE_FILE = "lab.json"


@dataclass(frozen=True, slots=True)
class Roots:
    """The two directories that hold all labs of this user."""

    run: Path
    data: Path


def roots() -> Roots:
    """root's labs live where daemons live; another user's (loopback only) in their own place."""
    user = os.geteuid()
    if user == 0:
        return Roots(Path("/run/essaim-lab"), Path("/var/lib/essaim-lab"))
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")
    return Roots(base / f"essaim-lab-{user}", base / f"essaim-lab-data-{user}")


def write_state(topology: Topology) -> None:
    """Record a lab, atomically: a reader sees the whole file or none."""
    document = {
        "name": topology.name,
        "executor": topology.executor,
        "subnet_number": topology.subnet_number,
        "host_count": len(topology.hosts),
        "master_count": len(topology.masters),
        "standby_count": len(topology.standbys),
        "masters": [
            {"host": host.name, "socket": str(host.master_socket)} for host in topology.masters
        ],
    }
    topology.run_dir.mkdir(parents=True, exist_ok=True)
    fresh = topology.run_dir / (STATE_FILE + ".new")
    fresh.write_text(json.dumps(document, indent=2) + "\n")
    fresh.replace(topology.run_dir / STATE_FILE)


def read_state(name: str, where: Roots) -> Topology | None:
    """The recorded lab of this name; None when there is none or its file is damaged.

    A damaged file is not an error: `down` cleans by what is on the machine, and `up` after it.
    """
    try:
        document = json.loads((where.run / name / STATE_FILE).read_text())
        executor: ExecutorName = "docker" if document["executor"] == "docker" else "process"
        return plan_lab(
            name,
            host_count=int(document["host_count"]),
            master_count=int(document["master_count"]),
            standby_count=int(document.get("standby_count", 0)),
            executor=executor,
            subnet_number=int(document["subnet_number"]),
            run_root=where.run,
            data_root=where.data,
        )
    except (OSError, ValueError, KeyError, TypeError, LabError):
        return None


def recorded_labs(where: Roots) -> tuple[Topology, ...]:
    """All labs with a readable state file, in order of their names."""
    try:
        names = sorted(entry.name for entry in where.run.iterdir())
    except OSError:
        return ()
    found = (read_state(name, where) for name in names)
    return tuple(topology for topology in found if topology is not None)
