"""`essaim cluster init` and `join`: a machine becomes the first of a cluster, or another one of it.

Both write the machine's files and start nothing.
"""

import ipaddress
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from essaim_cli.docker_certificate import add_docker_names
from essaim_cli.errors import CommandFailed
from essaim_cli.host_files import (
    BUS_MONITOR_PORT,
    BUS_PORT,
    BUS_ROUTE_PORT,
    HTTP_PORT,
    RAFT_PORT,
    Machine,
    Ports,
    agent_toml,
    master_toml,
    to_start,
)
from essaim_cli.joining import Joined, join_at
from essaim_cli.machine_setup import (
    cannot_write,
    check_is_new,
    give_to_master_user,
    make_directories,
    own_address,
    own_name,
    write_bus,
    write_config,
)
from essaim_shared.clock import SystemClock
from essaim_shared.errors import EssaimError
from essaim_shared.ids import new_id
from essaim_shared.sealing import new_data_key_text, write_private
from essaim_shared.subjects import permissions_of
from essaim_shared.trust.founding import FIRST_USER, Founder, write_founding
from essaim_shared.trust.identity import write_identity
from essaim_shared.trust.joining import ClusterNetworks, MasterAddress
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tokens import JoinToken, parse_join_token
from essaim_shared.trust_objects import NodeIdentity

DEFAULT_NAME: Final = "essaim"
OVERLAY_UDP_PORT: Final = 7472
NAME_CHARS_MAX: Final = 64

Command = Callable[..., None]


def machine_options(command: Command) -> Command:
    """Where a machine keeps its files, and at which address it is."""
    options = (
        click.option("--advertise", metavar="ADDR", help="This machine's IPv4 address for others."),
        click.option("--hostname", metavar="NAME", help="Instead of the machine's own."),
        click.option("--directory", default="/etc/essaim", show_default=True, metavar="DIR"),
        click.option("--data", default="/var/lib/essaim", show_default=True, metavar="DIR"),
        click.option("--run", default="/run/essaim", show_default=True, metavar="DIR"),
        click.option(
            "--executor",
            type=click.Choice(["docker", "process"]),
            default="docker",
            help="Of tasks.",
        ),
        click.option("--http-port", default=HTTP_PORT, show_default=True),
        click.option("--raft-port", default=RAFT_PORT, show_default=True),
        click.option("--bus-port", default=BUS_PORT, show_default=True),
        click.option("--bus-route-port", default=BUS_ROUTE_PORT, show_default=True),
        click.option("--bus-monitor-port", default=BUS_MONITOR_PORT, show_default=True),
    )
    for option in reversed(options):
        command = option(command)
    return command


def machine_of(options: dict[str, Any]) -> Machine:
    """Raises UsageError, CommandFailed."""
    address = options["advertise"] or own_address()
    try:
        ipaddress.IPv4Address(address)
    except ValueError as error:
        raise click.UsageError(f"--advertise {address}: {error}") from error
    return Machine(
        address=address,
        hostname=options["hostname"] or own_name(),
        directory=Path(options["directory"]).absolute(),
        data=Path(options["data"]).absolute(),
        run=Path(options["run"]).absolute(),
        ports=Ports(
            http=options["http_port"],
            raft=options["raft_port"],
            bus=options["bus_port"],
            bus_route=options["bus_route_port"],
            bus_monitor=options["bus_monitor_port"],
        ),
        executor=options["executor"],
    )


@click.command()
@click.option("--name", default=DEFAULT_NAME, show_default=True, help="Of the cluster.")
@machine_options
def init(name: str, **options: Any) -> None:
    """Found a cluster on this machine: its authority, the first master, agent and user.

    Nothing is started, and nothing is overwritten.
    """
    if not (name.isascii() and name.replace("-", "").isalnum() and len(name) <= NAME_CHARS_MAX):
        raise click.UsageError(
            f"--name {name!r}: use letters, digits and dashes, at most {NAME_CHARS_MAX}"
        )
    machine = machine_of(options)
    try:
        permissions_of(name, Role.MASTER, machine.hostname)
    except EssaimError as error:
        raise click.UsageError(
            f"{error}: name the master with --hostname: letters, digits, - and _"
        ) from error
    check_is_new(machine)
    make_directories(machine, has_master=True)
    try:
        founder = _found(machine, name)
        user = give_to_master_user(machine)
    except OSError as error:
        raise cannot_write(error) from error
    except EssaimError as error:
        raise CommandFailed(str(error)) from error
    founding = founder.founding
    click.echo(f"Cluster {name} is founded on {machine.hostname} ({machine.address}).")
    _tell_what_to_start(machine, user, has_master=True)
    click.echo(
        f"\nUser {FIRST_USER}'s certificate, for use from elsewhere: {machine.admin_identity}"
    )
    click.echo("\nTo add a worker, run on it:\n")
    click.echo(f"    {join_line(founding.worker_token, machine.http, is_master=False)}")
    click.echo("\nTo add a master, run on it:\n")
    click.echo(f"    {join_line(founding.master_token, machine.http, is_master=True)}")
    click.echo(f"\nKeep a copy of {machine.seal_key_file} apart from backups: it opens them.")


def join_line(token: JoinToken, address: str, *, is_master: bool) -> str:
    return f"essaim cluster join {'--master ' if is_master else ''}--token {token.text} {address}"


def _found(machine: Machine, cluster_id: str) -> Founder:
    clock = SystemClock()
    founder = Founder(cluster_id, clock.wall_ns())
    networks = ClusterNetworks(udp_port=OVERLAY_UDP_PORT)
    masters, servers = [machine.http], [machine.bus_url]
    node_id = new_id(random.SystemRandom())
    master = founder.admit(
        Role.MASTER,
        machine.hostname,
        addresses=server_names(machine),
        masters=masters,
        bus_servers=servers,
        node_id=node_id,
    )
    agent = founder.admit(Role.AGENT, node_id, masters=masters, bus_servers=servers)
    admin = founder.admit(Role.USER, FIRST_USER, masters=masters)
    write_private(machine.seal_key_file, new_data_key_text().encode())
    write_identity(machine.admin_identity, admin)
    add_docker_names(machine.admin_identity)
    write_identity(machine.agent_identity, agent)
    write_identity(machine.master_identity, master)
    write_founding(machine.master_identity, founder.founding)
    own = MasterAddress(machine.hostname, machine.raft, machine.http)
    write_bus(machine, cluster_id, machine.hostname, founder.founding.identities, servers)
    write_config(
        machine.master_config,
        master_toml(machine, cluster_id, machine.hostname, [own], servers, networks),
    )
    write_config(machine.agent_config, agent_toml(machine, cluster_id, servers, networks))
    return founder


@click.command()
@click.option(
    "--token",
    required=True,
    help="From `essaim cluster join-token`; - reads it from stdin, out of sight of others here.",
)
@click.option("--master", "is_master", is_flag=True, help="With a master; takes a master's token.")
@click.option("--master-name", metavar="NAME", help="Instead of the machine's host name.")
@machine_options
@click.argument("masters", nargs=-1, required=True, metavar="HOST:PORT...")
def join(
    token: str,
    is_master: bool,
    master_name: str | None,
    masters: tuple[str, ...],
    **options: Any,
) -> None:
    """Let this machine join a cluster, by any of its masters.

    The token says which authority the cluster has: nothing is sent to another one. Nothing is
    started, and nothing is overwritten.
    """
    try:
        parsed = parse_join_token(sys.stdin.readline() if token == "-" else token)
    except EssaimError as error:
        raise click.UsageError(str(error)) from error
    machine = machine_of(options)
    check_is_new(machine)
    make_directories(machine, has_master=is_master)
    name = master_name or machine.hostname
    roles = (Role.MASTER, Role.AGENT) if is_master else (Role.AGENT,)
    try:
        joined = join_at(
            masters,
            parsed,
            roles=roles,
            hostname=machine.hostname,
            master_name=name if is_master else "",
            addresses=server_names(machine),
            now_ns=SystemClock().wall_ns(),
        )
        user = _write_joined(machine, joined, name, is_master=is_master)
    except OSError as error:
        raise cannot_write(error) from error
    except EssaimError as error:
        raise CommandFailed(str(error)) from error
    node_id = joined.identity(Role.AGENT).about.name
    click.echo(f"This machine has joined cluster {joined.answer.cluster_id} as node {node_id}.")
    _tell_what_to_start(machine, user, has_master=is_master)
    if is_master:
        click.echo(f"\nMaster {name} takes part once it runs: see essaim cluster members ls.")


def _write_joined(machine: Machine, joined: Joined, name: str, *, is_master: bool) -> str:
    """Who the master is to run as."""
    answer = joined.answer
    cluster_id = answer.cluster_id
    servers = list(answer.bus_servers)
    if is_master:
        servers = [machine.bus_url, *servers]
        write_private(machine.seal_key_file, answer.seal_key.encode())
        write_identity(machine.master_identity, joined.identity(Role.MASTER))
        known: tuple[NodeIdentity, ...] = joined.known
        write_bus(machine, cluster_id, name, known, servers)
        write_config(
            machine.master_config,
            master_toml(machine, cluster_id, name, answer.masters, servers, answer.networks),
        )
    write_config(machine.agent_config, agent_toml(machine, cluster_id, servers, answer.networks))
    write_identity(machine.agent_identity, joined.identity(Role.AGENT))
    return give_to_master_user(machine) if is_master else ""


def server_names(machine: Machine) -> tuple[str, ...]:
    """What stands in a master's certificate, for clients that check an address."""
    return (machine.address, machine.hostname, "127.0.0.1", "localhost")


def _tell_what_to_start(machine: Machine, user: str, *, has_master: bool) -> None:
    click.echo("\nStart on this machine, or have systemd do so:\n")
    for command in to_start(machine, has_master=has_master):
        click.echo(f"    {command}")
    if has_master:
        click.echo(f"\nThe first two as user {user}, to whom their files belong.")
