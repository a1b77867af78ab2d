"""What a lab's bus servers are told: their configuration, and who may log in."""

from collections.abc import Iterable

from essaim_cli.lab.topology import Host, Topology
from essaim_shared.bus_server_config import BusServer, route_password, server_config
from essaim_shared.bus_users import users_file
from essaim_shared.sealing import load_data_key, write_private
from essaim_shared.trust_objects import NodeIdentity

LOOPBACK = "127.0.0.1"


def bus_server(topology: Topology, host: Host) -> BusServer:
    """Its password is drawn from the masters' data key, which has to be there."""
    return BusServer(
        name=host.name,
        cluster_name=topology.name,
        listen=f"{host.address}:{host.bus_port}",
        route_listen=f"{host.address}:{host.bus_route_port}",
        routes=tuple(
            f"{other.address}:{other.bus_route_port}"
            for other in topology.bus_hosts
            if other != host
        ),
        monitor_listen=f"{LOOPBACK}:{host.bus_monitor_port}",
        pid_file=host.bus_server_pid_file,
        users_file=host.bus_users_file.name,
        identity_dir=host.master_identity_dir,
        route_password=route_password(load_data_key(host.seal_key_file), topology.name),
    )


def write_bus_config(topology: Topology, host: Host) -> None:
    text = server_config(bus_server(topology, host))
    write_private(host.config_file("bus"), text.encode())


def write_bus_users(topology: Topology, identities: Iterable[NodeIdentity]) -> None:
    """Of the first hour; what comes later the masters write."""
    users = users_file(topology.name, identities)
    assert not users.refused, users.refused
    for host in topology.bus_hosts:
        host.run_dir.mkdir(parents=True, exist_ok=True)
        write_private(host.bus_users_file, users.text.encode())
