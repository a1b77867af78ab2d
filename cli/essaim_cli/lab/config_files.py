"""What the processes of a lab are told: the texts of their configuration files. Pure."""

import json
from collections.abc import Sequence
from pathlib import Path

from essaim_cli.lab.topology import (
    OVERLAY_MTU_BYTES,
    OVERLAY_SUBNET,
    Host,
    Topology,
)

RUNTIME_NAME = "essaim"
"""The OCI runtime registered in each engine; the agent asks for it by this name."""


ENGINE_MAJOR_WITH_KEY_MAX = 20
"""Engines up to 20.10 write a key of their own to /etc/docker; later ones have none, and refuse
the setting that moves it."""


def engine_config(host: Host, runtime: Path | None, engine_major: int) -> str:
    """daemon.json: containers outlive the engine; our runtime, once its shim is installed."""
    config: dict[str, object] = {"live-restore": True}
    if engine_major <= ENGINE_MAJOR_WITH_KEY_MAX:
        config["deprecated-key-path"] = str(host.run_dir / "engine-key.json")
    if runtime is not None:
        config["runtimes"] = {RUNTIME_NAME: {"path": str(runtime)}}
    return json.dumps(config, indent=2) + "\n"


def engine_command(host: Host) -> list[str]:
    """A second engine on the machine: everything that it shares by default is its own."""
    return [
        "dockerd",
        f"--config-file={host.config_file('engine')}",
        f"--data-root={host.engine_data_root}",
        f"--exec-root={host.engine_exec_root}",
        f"--host=unix://{host.engine_socket}",
        f"--pidfile={host.engine_pid_file}",
        f"--cgroup-parent={host.cgroup}",
        "--userland-proxy=false",
    ]


def bus_servers(topology: Topology, host: Host) -> list[str]:
    """All servers, as clients try them: the host's own first. Hosts without one begin with
    different ones."""
    servers = topology.bus_hosts
    first = servers.index(host) if host in servers else (host.number - 1) % len(servers)
    return [one.bus_url for one in (*servers[first:], *servers[:first])]


def master_config(topology: Topology, host: Host) -> str:
    members = "".join(
        f"\n[[members]]\n"
        f'id = "{member.name}"\n'
        f'raft = "{member.address}:{member.raft_port}"\n'
        f'http = "{member.address}:{member.http_port}"\n'
        for member in topology.masters
    )
    return (
        f'cluster_id = "{topology.name}"\n'
        f'member_id = "{host.name}"\n'
        f'data_dir = "{host.data_dir / "master"}"\n'
        f'socket = "{host.master_socket}"\n'
        f'http_listen = "{host.address}:{host.http_port}"\n'
        f'raft_listen = "{host.address}:{host.raft_port}"\n'
        f"bus_servers = {_toml_strings(bus_servers(topology, host))}\n"
        f'seal_key_file = "{host.seal_key_file}"\n'
        f'identity_dir = "{host.master_identity_dir}"\n'
        f'bus_users_file = "{host.bus_users_file}"\n'
        f'bus_pid_file = "{host.bus_server_pid_file}"\n'
        f'bus_monitor = "http://127.0.0.1:{host.bus_monitor_port}"\n'
        f"standby = true\n"
        f"{members}"
        f"\n[overlay]\n"
        f'subnet = "{OVERLAY_SUBNET}"\n'
        f"vni = {topology.overlay_vni}\n"
        f"udp_port = {host.overlay_udp_port}\n"
        f"mtu = {OVERLAY_MTU_BYTES}\n"
        # A lab has no way out: asking Docker Hub would only cost time.
        f"\n[images]\n"
        f'unasked_registries = ["docker.io"]\n'
    )


def agent_config(topology: Topology, host: Host) -> str:
    return (
        f'cluster_id = "{topology.name}"\n'
        f'node_name = "{host.name}"\n'
        f'data_dir = "{host.data_dir / "agent"}"\n'
        f'run_dir = "{host.agent_run_dir}"\n'
        f'address = "{host.address}"\n'
        f'executor = "{host.executor}"\n'
        f'engine_socket = "{host.engine_socket}"\n'
        f'metrics_listen = "{host.address}:{host.metrics_port}"\n'
        f'identity_dir = "{host.agent_identity_dir}"\n'
        f"bus_servers = {_toml_strings(bus_servers(topology, host))}\n"
        f"\n[overlay]\n"
        f"udp_port = {host.overlay_udp_port}\n"
    )


def _toml_strings(values: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"
