"""Who this node is, and how it logs in to the bus."""

import random
from pathlib import Path

from essaim_agent.config import AgentConfig
from essaim_agent.journal import DataDirectory
from essaim_shared.bus_login import bus_login
from essaim_shared.clock import Clock
from essaim_shared.ids import NodeId
from essaim_shared.nats_transport import NatsTransport
from essaim_shared.subjects import Subjects
from essaim_shared.trust.identity import checked_about, read_identity
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import Tls


def own_tls(config: AgentConfig) -> Tls | None:
    """None without an identity directory. Raises ConfigError for one that cannot be used, or is
    somebody else's."""
    if not config.identity_dir:
        return None
    directory = Path(config.identity_dir)
    checked_about(directory, Role.AGENT, config.cluster_id)
    return Tls(directory)


def own_node_id(config: AgentConfig, data: DataDirectory, rng: random.Random) -> NodeId:
    """What the node's certificate calls it; without one, what its data directory says. Raises
    ConfigError for another node's data."""
    if config.identity_dir:
        return data.node_id(rng, read_identity(Path(config.identity_dir)).about.name)
    return data.node_id(rng)


def own_bus(
    config: AgentConfig, node_id: NodeId, clock: Clock, rng: random.Random, tls: Tls | None
) -> NatsTransport:
    inbox = Subjects(config.cluster_id).inbox(node_id)
    login = bus_login(config.identity_dir, tls)
    return NatsTransport(config.bus_servers, f"agent-{node_id}", clock, rng, inbox, login)
