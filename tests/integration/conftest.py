"""One real lab for all integration tests, driven by its own commands, as new after each test.

lab        the cluster: three hosts, three masters, an engine on each
cluster    the same, for one test: afterwards every cable is plugged in, every process runs,
           and no service is left
"""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from support.lab_cluster import HOSTS, Cluster
from support.labs import raised_lab

from essaim_cli.lab.topology import Topology


@pytest.fixture(scope="session")
def lab() -> Iterator[Topology]:
    with raised_lab(f"t{os.getpid()}", HOSTS, HOSTS) as topology:
        yield topology


@pytest.fixture
async def cluster(lab: Topology) -> AsyncIterator[Cluster]:
    """The lab, for one test. A test that failed is cleaned up after just as well."""
    cluster = Cluster(lab)
    yield cluster
    await cluster.reset()
