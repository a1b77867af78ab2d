"""The configuration files of a machine's daemons, as `cluster init` and `cluster join` write them.
Pure.

    DIRECTORY/master.toml, agent.toml   what the daemons are told
    DIRECTORY/seal.key                  the key that all masters share
    DIRECTORY/admin/                    the first user, on the machine that founded the cluster
    DATA/master/                        the master's data, its identity, what its bus server reads
    DATA-agent/                         the agent's data and identity

The agent's directories are not below one of the masters' user, who could put another in its place.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from essaim_shared.trust.joining import ClusterNetworks, MasterAddress

HTTP_PORT: Final = 7400
RAFT_PORT: Final = 7401
BUS_PORT: Final = 4222
BUS_ROUTE_PORT: Final = 6222
BUS_MONITOR_PORT: Final = 8222
USERS_FILE: Final = "users.conf"


class Ports(msgspec.Struct, frozen=True):
    """The same on all machines of a cluster."""

    http: int = HTTP_PORT
    raft: int = RAFT_PORT
    bus: int = BUS_PORT
    bus_route: int = BUS_ROUTE_PORT
    bus_monitor: int = BUS_MONITOR_PORT


class Machine(msgspec.Struct, frozen=True):
    """Where everything of one machine is."""

    address: str
    """At which the other machines reach it."""
    hostname: str
    directory: Path
    data: Path
    run: Path
    ports: Ports
    executor: str = "docker"

    @property
    def seal_key_file(self) -> Path:
        return self.directory / "seal.key"

    @property
    def admin_identity(self) -> Path:
        return self.directory / "admin"

    @property
    def master_config(self) -> Path:
        return self.directory / "master.toml"

    @property
    def agent_config(self) -> Path:
        return self.directory / "agent.toml"

    @property
    def master_data(self) -> Path:
        return self.data / "master"

    @property
    def master_identity(self) -> Path:
        return self.master_data / "identity"

    @property
    def bus_directory(self) -> Path:
        return self.master_data / "bus"

    @property
    def bus_config(self) -> Path:
        return self.bus_directory / "bus.conf"

    @property
    def bus_pid_file(self) -> Path:
        return self.bus_directory / "bus.pid"

    @property
    def bus_monitor(self) -> str:
        """On loopback: what a bus server tells of its clients is for its host alone."""
        return f"127.0.0.1:{self.ports.bus_monitor}"

    @property
    def agent_data(self) -> Path:
        return self.data.with_name(f"{self.data.name}-agent")

    @property
    def agent_identity(self) -> Path:
        return self.agent_data / "identity"

    @property
    def agent_run(self) -> Path:
        return self.run.with_name(f"{self.run.name}-agent")

    @property
    def http(self) -> str:
        return self.at(self.ports.http)

    @property
    def raft(self) -> str:
        return self.at(self.ports.raft)

    @property
    def bus_url(self) -> str:
        return f"nats://{self.at(self.ports.bus)}"

    def at(self, port: int) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{port}"


def master_toml(
    machine: Machine,
    cluster_id: str,
    name: str,
    members: Sequence[MasterAddress],
    bus_servers: Sequence[str],
    networks: ClusterNetworks,
) -> str:
    overlay = [f"udp_port = {networks.udp_port}"]
    if networks.pools:
        overlay += [
            f"pools = {_strings(networks.pools)}",
            f"vip_pools = {_strings(networks.vip_pools)}",
            f"pool_prefix_length = {networks.pool_prefix_length}",
        ]
    lines = [
        f'cluster_id = "{cluster_id}"',
        f'member_id = "{name}"',
        f'data_dir = "{machine.master_data}"',
        f'socket = "{machine.run / "master.sock"}"',
        f'http_listen = "{machine.http}"',
        f'raft_listen = "{machine.raft}"',
        f"bus_servers = {_strings(bus_servers)}",
        f'seal_key_file = "{machine.seal_key_file}"',
        f'identity_dir = "{machine.master_identity}"',
        f'bus_users_file = "{machine.bus_directory / USERS_FILE}"',
        f'bus_pid_file = "{machine.bus_pid_file}"',
        f'bus_monitor = "http://{machine.bus_monitor}"',
        "standby = true",
    ]
    for member in members:
        lines += ["", "[[members]]", f'id = "{member.id}"', f'raft = "{member.raft}"']
        lines.append(f'http = "{member.http}"')
    return "\n".join([*lines, "", "[overlay]", *overlay]) + "\n"


def agent_toml(
    machine: Machine, cluster_id: str, bus_servers: Sequence[str], networks: ClusterNetworks
) -> str:
    return (
        f'cluster_id = "{cluster_id}"\n'
        f'node_name = "{machine.hostname}"\n'
        f'data_dir = "{machine.agent_data}"\n'
        f'run_dir = "{machine.agent_run}"\n'
        f'address = "{machine.address}"\n'
        f'executor = "{machine.executor}"\n'
        f'identity_dir = "{machine.agent_identity}"\n'
        f"bus_servers = {_strings(bus_servers)}\n"
        f"\n[overlay]\n"
        f"udp_port = {networks.udp_port}\n"
    )


def to_start(machine: Machine, *, has_master: bool) -> tuple[str, ...]:
    """Commands, in an order in which nobody waits for long."""
    agent = f"essaim-agent --config {machine.agent_config}"
    if not has_master:
        return (agent,)
    return (
        f"nats-server --config {machine.bus_config}",
        f"essaim-master --config {machine.master_config}",
        agent,
    )


def _strings(values: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"
