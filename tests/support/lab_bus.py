"""A stranger on the bus of a lab, and what processes say of themselves."""

import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.lab_cluster import Cluster

from essaim_cli.lab.probes import Target, api_of, http_request
from essaim_cli.lab.topology import Host, Topology
from essaim_shared.clock import SystemClock
from essaim_shared.ids import NodeId
from essaim_shared.nats_transport import NatsTransport
from essaim_shared.subjects import Subjects

CONNECT_WAIT_S = 5.0
GHOST = NodeId("ghost")

_SAMPLE = re.compile(r"^([a-z_]+) (\S+)$", re.MULTILINE)


@asynccontextmanager
async def on_the_bus(topology: Topology) -> AsyncIterator[tuple[NatsTransport, Subjects]]:
    """A connection to the bus that no process of the cluster knows of, and that gets its answers
    as the node GHOST would."""
    subjects = Subjects(topology.name)
    servers = [host.bus_url for host in topology.bus_hosts]
    transport = NatsTransport(
        servers, "stranger", SystemClock(), random.Random(), subjects.inbox(GHOST)
    )
    try:
        await transport.open(wait_s=CONNECT_WAIT_S)
        assert transport.server is not None, f"no bus server of {servers} answers"
        yield transport, subjects
    finally:
        await transport.close()


async def metrics_of(target: Target) -> dict[str, float]:
    """The samples without labels of a process's metrics page."""
    answer = await http_request(target, "/metrics")
    assert answer is not None, f"nobody answers on {target}/metrics"
    assert answer[0] == 200, answer
    return {name: float(value) for name, value in _SAMPLE.findall(answer[1].decode())}


async def agent_metrics(host: Host) -> dict[str, float]:
    return await metrics_of((host.address, host.metrics_port))


async def master_metrics(host: Host) -> dict[str, float]:
    return await metrics_of(api_of(host))


async def node_ids(cluster: Cluster) -> dict[str, str]:
    """Host → id of its node."""
    nodes = await cluster.api("/nodes", await cluster.leader())
    return {node["Description"]["Hostname"]: node["ID"] for node in nodes}
