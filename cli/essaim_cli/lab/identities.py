"""A lab's identities: who its processes and its user are, made before any of them starts.

    DATA/hN/identity/master, DATA/hN/identity/agent    of the processes of a host
    RUN/identity/admin                                 of the user who raised the lab

The user's directory also has the names that Docker's clients look for (DOCKER_CERT_PATH):
`ca.pem`, `cert.pem`, `key.pem`.
"""

import random
from pathlib import Path

from essaim_cli.docker_certificate import add_docker_names
from essaim_cli.lab.bus_files import write_bus_users
from essaim_cli.lab.config_files import bus_servers
from essaim_cli.lab.topology import Host, Topology
from essaim_shared.clock import Clock
from essaim_shared.ids import new_id
from essaim_shared.trust.founding import FIRST_USER, Founder, write_founding
from essaim_shared.trust.identity import write_identity
from essaim_shared.trust.roles import Role


def found_cluster(topology: Topology, clock: Clock, rng: random.Random) -> None:
    """Make the lab's authority and admit all that takes part. The hosts' data directories are
    empty: a lab that is completed keeps what it has."""
    founder = Founder(topology.name, clock.wall_ns())
    masters = [f"{host.address}:{host.http_port}" for host in topology.masters]

    def admit(role: Role, name: str, host: Host, directory: Path, node_id: str = "") -> None:
        identity = founder.admit(
            role,
            name,
            addresses=(host.address,),
            masters=masters,
            bus_servers=bus_servers(topology, host),
            node_id=node_id,
        )
        write_identity(directory, identity)

    for host in topology.hosts:
        node_id = new_id(rng)
        if "master" in host.parts:
            admit(Role.MASTER, host.name, host, host.master_identity_dir, node_id)
        admit(Role.AGENT, node_id, host, host.agent_identity_dir)
    write_identity(
        topology.admin_identity_dir, founder.admit(Role.USER, FIRST_USER, masters=masters)
    )
    add_docker_names(topology.admin_identity_dir)
    write_bus_users(topology, founder.founding.identities)
    for host in topology.masters:
        write_founding(host.master_identity_dir, founder.founding)
