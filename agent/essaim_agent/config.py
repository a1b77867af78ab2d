"""The agent's configuration file, checked before anything starts."""

import ipaddress
from pathlib import Path
from typing import Literal

import msgspec

from essaim_agent.dns import DNS_PORT_DEFAULT
from essaim_agent.generic_resources import parse_generic_resources
from essaim_shared import config
from essaim_shared.errors import ConfigError

PORT_MAX = 65_535
DNS_PORT_WELL_KNOWN = 53


class OverlayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    udp_port: int = 7472
    """For VXLAN, the same on every node; not Swarm's 4789, so that both can live on one host."""
    dns_port: int = DNS_PORT_DEFAULT
    """Where the node's name server hears what the packet filter leads to it."""


class ImagesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When images that the agent pulled, and nothing uses, are removed from the engine."""

    clean_up_above_percent: float = 85
    """Of the file system with the engine's data; 100: never, but for a pull that lacks space."""
    clean_up_below_percent: float = 75


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cluster_id: str
    node_name: str
    """Shown by `node ls`."""
    data_dir: str
    """Node id and journal. To be kept."""
    run_dir: str
    """Namespaces linked for the runtime, process files. May go with a reboot."""
    address: str
    """The node's own IPv4 address, where the other nodes send VXLAN packets."""
    bus_servers: tuple[str, ...]
    """The local one first: it is preferred."""
    executor: Literal["docker", "process", "fake"] = "docker"
    engine_socket: str = "/var/run/docker.sock"
    metrics_listen: str = ""
    """`HOST:PORT`; empty: no metrics page."""
    identity_dir: str = ""
    """Where this node's certificate and keys stand (`essaim cluster join` writes it). Empty: the
    bus is reached without TLS, and secrets are not to be had."""
    generic_resources: tuple[str, ...] = ()
    """`gpu=UUID` for each unit with a name, `ssd=3` for a number of equal ones; services reserve
    them, and tasks find theirs in `DOCKER_RESOURCE_GPU`."""
    overlay: OverlayConfig = OverlayConfig()
    images: ImagesConfig = ImagesConfig()


def split_address(address: str) -> tuple[str, int]:
    """`HOST:PORT` → (host, port). Raises ConfigError."""
    host, separator, port = address.rpartition(":")
    if not (separator and host and port.isdigit() and int(port) <= PORT_MAX):
        raise ConfigError(f"{address!r} is no address: write HOST:PORT")
    return host.strip("[]"), int(port)


def load_agent_config(path: Path) -> AgentConfig:
    """Read and check the file. Raises ConfigError: file, key, what is wrong with it."""
    loaded = config.load(path, AgentConfig)
    try:
        _check(loaded)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return loaded


def _check(loaded: AgentConfig) -> None:
    if not loaded.bus_servers:
        raise ConfigError("bus_servers: name at least one, for example nats://127.0.0.1:4222")
    if not loaded.node_name:
        raise ConfigError("node_name: is empty")
    try:
        ipaddress.IPv4Address(loaded.address)
    except ValueError as error:
        raise ConfigError(f"address: {error}") from error
    for key in ("data_dir", "run_dir"):
        value = getattr(loaded, key)
        if not value.startswith("/"):
            raise ConfigError(f"{key}: {value!r} is not absolute")
    if loaded.metrics_listen:
        split_address(loaded.metrics_listen)
    try:
        parse_generic_resources(loaded.generic_resources)
    except ConfigError as error:
        raise ConfigError(f"generic_resources: {error}") from error
    for key in ("udp_port", "dns_port"):
        port = getattr(loaded.overlay, key)
        if not 0 < port <= PORT_MAX:
            raise ConfigError(f"overlay.{key}: {port} is not in 1..{PORT_MAX}")
    if loaded.overlay.dns_port == DNS_PORT_WELL_KNOWN:
        raise ConfigError("overlay.dns_port: 53 belongs to the node's own resolver; choose another")
    above, below = loaded.images.clean_up_above_percent, loaded.images.clean_up_below_percent
    if not 0 < below <= above <= 100:
        raise ConfigError(
            f"images: clean_up_below_percent {below:g} and clean_up_above_percent {above:g}: "
            "the first is greater than 0 and not above the second, which is at most 100"
        )
