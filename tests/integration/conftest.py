"""One real lab for all integration tests, driven by its own commands, as new after each test.

lab        the cluster: three hosts, three masters, an engine on each
cluster    the same, for one test: afterwards every cable is plugged in, every process runs,
           and no service is left
"""

import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest
from support.lab_cluster import HOSTS, Cluster, lab_command

from essaim_cli.lab.state import roots
from essaim_cli.lab.topology import Topology, plan_lab
from essaim_cli.lab.traces import has_traces, places_of


@pytest.fixture(scope="session")
def lab() -> Iterator[Topology]:
    name = f"t{os.getpid()}"
    where = roots()
    raised = subprocess.run(
        lab_command(name, "up", "--hosts", str(HOSTS), "--executor", "docker"),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        assert raised.returncode == 0, raised.stderr
        record = json.loads((where.run / name / "lab.json").read_text())
        yield plan_lab(
            name,
            host_count=HOSTS,
            master_count=HOSTS,
            executor="docker",
            subnet_number=record["subnet_number"],
            run_root=where.run,
            data_root=where.data,
        )
    finally:
        keep = os.environ.get("ESSAIM_KEEP_LAB")
        if not keep:
            subprocess.run(lab_command(name, "down"), check=True, capture_output=True)
            assert not has_traces(places_of(name, where))


@pytest.fixture
async def cluster(lab: Topology) -> AsyncIterator[Cluster]:
    """The lab, for one test. A test that failed is cleaned up after just as well."""
    cluster = Cluster(lab)
    yield cluster
    await cluster.reset()
