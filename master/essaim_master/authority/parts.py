"""A master's part in the cluster's authority, wired from its configuration."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from essaim_master.authority.desk import AuthorityDesk, BusUsers, DeskSettings
from essaim_master.authority.founding import FoundingFile
from essaim_master.authority.upkeep import AuthorityUpkeep
from essaim_master.authority.vault import AuthorityVault
from essaim_master.config import MasterConfig
from essaim_master.http.audit_trail import AuditTrail
from essaim_master.state.cluster import Cluster
from essaim_shared.clock import Clock
from essaim_shared.sealing import load_data_key
from essaim_shared.trust.joining import ClusterNetworks
from essaim_shared.trust.renewal import IdentityRenewal
from essaim_shared.trust.tls import Tls


class AuthorityParts(NamedTuple):
    founding: FoundingFile
    desk: AuthorityDesk
    upkeep: AuthorityUpkeep
    renewal: IdentityRenewal


def authority_parts(
    config: MasterConfig,
    cluster: Cluster,
    clock: Clock,
    rng: random.Random,
    tls: Tls | None,
    bus_users: BusUsers | None = None,
    on_renewed: Callable[[], None] = lambda: None,
) -> AuthorityParts | None:
    """None without an identity. `on_renewed` is called when this master has another certificate.
    Raises ConfigError for a key that cannot be used."""
    if tls is None:
        return None
    vault = AuthorityVault(load_data_key(Path(config.seal_key_file)))
    founding = FoundingFile(Path(config.identity_dir), vault)
    trail = AuditTrail(cluster.state, cluster.member_id, clock, "authority")
    desk = AuthorityDesk(cluster, vault, _settings(config), clock, rng, bus_users, trail.add)
    renewal = IdentityRenewal(Path(config.identity_dir), tls, clock, rng, on_renewed)
    upkeep = AuthorityUpkeep(cluster, founding, clock, renewal.note)
    return AuthorityParts(founding, desk, upkeep, renewal)


def _settings(config: MasterConfig) -> DeskSettings:
    overlay = config.overlay
    return DeskSettings(
        cluster_id=config.cluster_id,
        bus_servers=config.bus_servers,
        networks=ClusterNetworks(
            udp_port=overlay.udp_port,
            pools=overlay.pools,
            vip_pools=overlay.vip_pools,
            pool_prefix_length=overlay.pool_prefix_length,
        ),
        certificate_lifetime_s=config.authority.certificate_lifetime_s,
        seal_key_file=config.seal_key_file,
    )
