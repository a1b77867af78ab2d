"""A lab of a test's own, with the shape that it needs."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from support.lab_cluster import lab_command

from essaim_cli.lab.state import roots
from essaim_cli.lab.topology import ExecutorName, Topology, plan_lab
from essaim_cli.lab.traces import has_traces, places_of


@contextmanager
def raised_lab(
    name: str,
    host_count: int,
    master_count: int,
    standby_count: int = 0,
    executor: ExecutorName = "docker",
) -> Iterator[Topology]:
    """A lab, with engines unless it is to have none; gone without a trace afterwards, unless
    ESSAIM_KEEP_LAB is set."""
    where = roots()
    shape = ("--hosts", str(host_count), "--masters", str(master_count))
    raised = subprocess.run(
        lab_command(name, "up", *shape, "--standbys", str(standby_count), "--executor", executor),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        assert raised.returncode == 0, raised.stderr
        record = json.loads((where.run / name / "lab.json").read_text())
        yield plan_lab(
            name,
            host_count=host_count,
            master_count=master_count,
            executor=executor,
            subnet_number=record["subnet_number"],
            run_root=where.run,
            data_root=where.data,
            standby_count=standby_count,
        )
    finally:
        if not os.environ.get("ESSAIM_KEEP_LAB"):
            subprocess.run(lab_command(name, "down"), check=True, capture_output=True)
            assert not has_traces(places_of(name, where))
