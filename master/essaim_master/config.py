"""The master's configuration file, checked before anything starts."""

import ipaddress
from pathlib import Path
from typing import Literal

import msgspec

from essaim_master.snapshot.settings import SnapshotSettings
from essaim_master.standby.names import check_base_name
from essaim_master.state.cluster import Member
from essaim_master.state.network_choice import VNI_MAX, NetworkPools
from essaim_shared import config
from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId

MEMBERS_MAX = 7
PORT_MAX = 65_535
LIFETIME_MIN_S = 5
"""Seconds are for watching a renewal, in a lab."""
PREFIX_LENGTH_MAX = 29
"""A smaller subnet has no room for a gateway on each of three nodes and a task."""
MTU_MIN = 576
"""RFC 791: what every host must be able to receive."""


class MemberConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    raft: str
    http: str


class OverlayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The default network, made by the first leader, which later changes of the file do not
    change; and what later networks are chosen from, which they do: the same for all masters."""

    subnet: str = "10.244.0.0/20"
    vni: int = 70_001
    """Not from Swarm's range (4096 and up), so that both can live on one host."""
    udp_port: int = 7472
    mtu: int = 0
    """Of the containers' interfaces; 0: the least that the nodes' own carry."""
    pools: tuple[str, ...] = ("10.128.0.0/11",)
    """What the subnets of later networks are cut out of."""
    pool_prefix_length: int = 20
    vip_pools: tuple[str, ...] = ("10.160.0.0/11",)
    """What their services' addresses are cut out of, as long as their subnets."""

    @property
    def network_pools(self) -> NetworkPools:
        return NetworkPools(
            subnets=self.pools,
            vip_subnets=self.vip_pools,
            prefix_length=self.pool_prefix_length,
            first_vni=self.vni,
        )


class ImagesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How tags of images become digests when a service is created or changed."""

    resolve: Literal["auto", "never"] = "auto"
    """`never`: no registry is asked; each node pulls what it finds under the tag."""
    unasked_registries: tuple[str, ...] = ()
    """Not asked even then, as they stand in image names; `docker.io` is Docker Hub."""
    insecure_registries: tuple[str, ...] = ()
    """`HOST` or `HOST:PORT`: their certificate is not checked, and they may speak plain HTTP.
    Registries on loopback always may."""


class AuthorityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    certificate_lifetime_s: int = 90 * 86_400
    """Of nodes' and masters' certificates, which are renewed at a random 50 to 80 percent of it.
    The same for all masters."""


class MasterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cluster_id: str
    member_id: str
    data_dir: str
    socket: str
    http_listen: str
    raft_listen: str
    bus_servers: tuple[str, ...]
    """The local one first: it is preferred."""
    members: tuple[MemberConfig, ...]
    """The first masters: the same list in every file, also when others came and these went."""
    overlay: OverlayConfig = OverlayConfig()
    join: bool = False
    """This master was not among the first ones: `members` are some that it can ask, and it takes
    part once it was added (`essaim cluster members add`)."""
    standby: bool = False
    """This master stands by whenever it is no member: from its first start on unless `members`
    names it, and again after it was removed. It takes part once its node is promoted
    (`essaim node promote`), each time with an empty log and under a new name, `member_id` and
    eight characters. `members` are then some that it can ask."""
    raft_transport: Literal["tcp", "nats"] = "tcp"
    """How the masters are linked; `nats` for sites where only the bus port is open. The same for
    all, and `raft_listen` is then not listened on."""
    snapshots: SnapshotSettings = SnapshotSettings()
    incarnation: str = ""
    """Of the cluster that this master joins with an empty disk, if that was ever restored or
    recovered: `essaim cluster recover` names it. A disk that is not empty knows its own."""
    images: ImagesConfig = ImagesConfig()
    authority: AuthorityConfig = AuthorityConfig()
    seal_key_file: str = ""
    """32 random bytes in base64, the same file on all masters, readable by its owner alone. It
    seals what the state must not hold in the clear. Empty: registry credentials are refused."""
    identity_dir: str = ""
    """Where this master's certificate and keys stand (`essaim cluster init` or `join` writes it).
    Empty: no TLS, no users; then it listens on loopback and private addresses only."""
    bus_users_file: str = ""
    """Beside the configuration of this host's bus server, which includes it: who may log in to
    that one. This master writes it. Empty: there is no bus server beside this master."""
    bus_pid_file: str = ""
    """That server's `pid_file`, so that it can be told to read its configuration again."""
    bus_monitor: str = ""
    """That server's monitoring, on loopback: `http://127.0.0.1:8222`."""
    kv_listen: str | None = None
    """Address of the native key-value protocol; without one it is not served."""

    @property
    def first_members(self) -> tuple[Member, ...]:
        return tuple(Member(MemberId(m.id), m.raft, m.http) for m in self.members)


def split_address(address: str) -> tuple[str, int]:
    """`HOST:PORT` → (host, port). Raises ConfigError."""
    host, separator, port = address.rpartition(":")
    if not (separator and host and port.isdigit() and int(port) <= PORT_MAX):
        raise ConfigError(f"{address!r} is no address: write HOST:PORT")
    return host.strip("[]"), int(port)


def load_master_config(path: Path) -> MasterConfig:
    """Read and check the file. Raises ConfigError: file, key, what is wrong with it."""
    loaded = config.load(path, MasterConfig)
    try:
        _check(loaded)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return loaded


def _check(config: MasterConfig) -> None:
    ids = [member.id for member in config.members]
    if not 1 <= len(ids) <= MEMBERS_MAX:
        raise ConfigError(f"members: {len(ids)} masters, there must be 1 to {MEMBERS_MAX}")
    if len(set(ids)) != len(ids):
        raise ConfigError(f"members: an id stands twice in {', '.join(ids)}")
    if config.join and config.member_id in ids:
        raise ConfigError(
            f"join: {config.member_id!r} is one of the first members; a master that joins is not"
        )
    if not (config.join or config.standby) and config.member_id not in ids:
        raise ConfigError(
            f"member_id: {config.member_id!r} is not one of the members {', '.join(ids)}; "
            "a master that is added to a running cluster says `join = true`, and one that "
            "waits for `essaim node promote` says `standby = true`"
        )
    if config.standby:
        _check_standby(config)
    if not config.bus_servers:
        raise ConfigError("bus_servers: name at least one, for example nats://127.0.0.1:4222")
    listens = (config.http_listen, config.raft_listen, config.kv_listen)
    for address in filter(None, listens):
        split_address(address)
    for member in config.members:
        split_address(member.raft)
        split_address(member.http)
    if config.identity_dir and not config.seal_key_file:
        raise ConfigError(
            "identity_dir is set and seal_key_file is not: the cluster's authority is kept sealed, "
            "so every master needs that key (essaim cluster init or join writes it)"
        )
    if config.authority.certificate_lifetime_s < LIFETIME_MIN_S:
        raise ConfigError(
            f"authority.certificate_lifetime_s: {config.authority.certificate_lifetime_s} is less "
            f"than {LIFETIME_MIN_S}"
        )
    _check_bus_server(config)
    _check_snapshots(config.snapshots)
    _check_overlay(config.overlay)


def _check_standby(config: MasterConfig) -> None:
    if config.join:
        raise ConfigError(
            "standby: a master either joins under its own name (join) or stands by: choose one"
        )
    check_base_name(config.member_id)
    for key, address in (("http_listen", config.http_listen), ("raft_listen", config.raft_listen)):
        host, _ = split_address(address)
        if host in ("0.0.0.0", "::"):
            raise ConfigError(
                f"{key}: {address} tells nobody where this master is: one that stands by tells "
                "the leader, so give the address at which others reach it"
            )


def _check_bus_server(config: MasterConfig) -> None:
    if not config.bus_users_file:
        return
    for key in ("bus_pid_file", "bus_monitor"):
        if not getattr(config, key):
            raise ConfigError(f"bus_users_file is set and {key} is not: name both, or none")
    host, _ = split_address(config.bus_monitor.removeprefix("http://"))
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ConfigError(
            f"bus_monitor: {host!r} is no loopback address; what a bus server tells of its clients "
            "is for its host alone"
        )


def _check_snapshots(snapshots: SnapshotSettings) -> None:
    for field in ("every_entries", "log_bytes_max", "entries_max"):
        if getattr(snapshots, field) < 1:
            raise ConfigError(f"snapshots.{field}: {getattr(snapshots, field)} is less than 1")
    if snapshots.trailing_entries < 0:
        raise ConfigError(f"snapshots.trailing_entries: {snapshots.trailing_entries} is negative")


def _check_overlay(overlay: OverlayConfig) -> None:
    try:
        subnet = ipaddress.IPv4Network(overlay.subnet)
    except ValueError as error:
        raise ConfigError(f"overlay.subnet: {error}") from error
    if subnet.prefixlen > PREFIX_LENGTH_MAX:
        raise ConfigError(f"overlay.subnet: {subnet} is too small: /{PREFIX_LENGTH_MAX} or larger")
    if not 0 < overlay.vni <= VNI_MAX:
        raise ConfigError(f"overlay.vni: {overlay.vni} is not in 1..{VNI_MAX}")
    if not 0 < overlay.udp_port <= PORT_MAX:
        raise ConfigError(f"overlay.udp_port: {overlay.udp_port} is not in 1..{PORT_MAX}")
    if overlay.mtu and overlay.mtu < MTU_MIN:
        raise ConfigError(f"overlay.mtu: {overlay.mtu} is neither 0 nor {MTU_MIN} or more")
    _check_pools(overlay)


def _check_pools(overlay: OverlayConfig) -> None:
    if not 0 < overlay.pool_prefix_length <= PREFIX_LENGTH_MAX:
        raise ConfigError(
            f"overlay.pool_prefix_length: {overlay.pool_prefix_length} is not in "
            f"1..{PREFIX_LENGTH_MAX}"
        )
    for name, pools in (("pools", overlay.pools), ("vip_pools", overlay.vip_pools)):
        if not pools:
            raise ConfigError(f"overlay.{name}: name at least one subnet")
        for text in pools:
            try:
                pool = ipaddress.IPv4Network(text)
            except ValueError as error:
                raise ConfigError(f"overlay.{name}: {error}") from error
            if pool.prefixlen > overlay.pool_prefix_length:
                raise ConfigError(
                    f"overlay.{name}: {pool} holds no /{overlay.pool_prefix_length}, which "
                    "overlay.pool_prefix_length asks for"
                )
