"""A master's part in who may use the bus, wired from its configuration."""

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from essaim_master.bus_users.connections import Connection
from essaim_master.bus_users.everywhere import BusUsersEverywhere
from essaim_master.bus_users.flood_guard import FloodGuard
from essaim_master.bus_users.follower import BusUsersFollower
from essaim_master.bus_users.keeper import BusUsersKeeper
from essaim_master.bus_users.local_server import BusServerControl, LocalBusServer
from essaim_master.config import MasterConfig
from essaim_master.state.cluster import Cluster
from essaim_shared.clock import Clock
from essaim_shared.trust.tls import Tls


class BusParts(NamedTuple):
    keeper: BusUsersKeeper
    everywhere: BusUsersEverywhere
    guard: FloodGuard

    @property
    def loops(self) -> dict[str, Coroutine[Any, Any, None]]:
        return {"bus users": self.keeper.run(), "flood guard": self.guard.run()}


class NoBusServer:
    """There is none beside this master."""

    def write(self, text: str) -> None:
        pass

    def reload(self) -> None:
        pass

    @property
    def has_old_certificates(self) -> bool:
        return False

    async def loaded_ns(self) -> int | None:
        return None

    async def connections(self) -> tuple[Connection, ...]:
        return ()


def bus_parts(
    config: MasterConfig, cluster: Cluster, clock: Clock, tls: Tls | None
) -> BusParts | None:
    """None without an identity: then the bus asks nobody for a key."""
    if tls is None:
        return None
    server = _server(config)
    keeper = BusUsersKeeper(cluster, config.cluster_id, server, clock)
    guard = FloodGuard(cluster, server, keeper, clock)
    return BusParts(keeper, BusUsersEverywhere(cluster, keeper, tls), guard)


def bus_follower(
    config: MasterConfig, members: Callable[[], Sequence[str]], clock: Clock, tls: Tls | None
) -> BusUsersFollower | None:
    """For a master that stands by; None when there is nothing to follow."""
    if tls is None or not config.bus_users_file:
        return None
    return BusUsersFollower(_server(config), members, tls, clock)


def _server(config: MasterConfig) -> BusServerControl:
    if not config.bus_users_file:
        return NoBusServer()
    return LocalBusServer(
        Path(config.bus_users_file),
        Path(config.bus_pid_file),
        config.bus_monitor.removeprefix("http://"),
        Path(config.identity_dir),
    )
