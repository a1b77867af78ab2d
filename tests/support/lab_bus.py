"""Whoever stole a credential, on the bus of a lab, and what processes say of themselves."""

import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.lab_cluster import Cluster

from essaim_cli.lab.probes import Target, api_of, http_request
from essaim_cli.lab.topology import Host, Topology
from essaim_shared.bus_login import bus_login
from essaim_shared.clock import SystemClock
from essaim_shared.ids import NodeId
from essaim_shared.nats_transport import NatsTransport
from essaim_shared.subjects import Subjects
from essaim_shared.trust.identity import read_identity
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import Tls

CONNECT_WAIT_S = 5.0

_SAMPLE = re.compile(r"^([a-z_]+) (\S+)$", re.MULTILINE)


@asynccontextmanager
async def on_the_bus(
    topology: Topology, identity_dir: Path
) -> AsyncIterator[tuple[NatsTransport, Subjects]]:
    """A second connection to the bus with the credential of one of the cluster's processes."""
    subjects = Subjects(topology.name)
    about = read_identity(identity_dir).about
    is_agent = about.role is Role.AGENT
    inbox = subjects.inbox(NodeId(about.name)) if is_agent else subjects.master_inbox(about.name)
    servers = [host.bus_url for host in topology.bus_hosts]
    login = bus_login(str(identity_dir), Tls(identity_dir))
    transport = NatsTransport(servers, "thief", SystemClock(), random.Random(), inbox, login)
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
