"""A master's connections to the bus."""

import random

from essaim_master.config import MasterConfig
from essaim_shared.bus_login import bus_login
from essaim_shared.clock import Clock
from essaim_shared.nats_transport import NatsTransport
from essaim_shared.subjects import Subjects
from essaim_shared.trust.tls import Tls


def own_bus(
    config: MasterConfig, client_name: str, clock: Clock, rng: random.Random, tls: Tls | None
) -> NatsTransport:
    """Raises ConfigError for an identity that the bus knows nothing of."""
    login = bus_login(config.identity_dir, tls)
    # A name that was drawn is not that of the identity, by which the bus servers know us.
    name = config.member_id if login is None else login.name
    inbox = Subjects(config.cluster_id).master_inbox(name)
    return NatsTransport(config.bus_servers, client_name, clock, rng, inbox, login)
