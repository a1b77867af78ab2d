"""Writes what a machine's daemons need: directories, keys, identities, configuration.

Nothing is overwritten: a machine that has an identity is told so before anything is done. What
belongs to the master is given to the user that it runs as, where this machine has one.
"""

import os
import pwd
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from essaim_cli.errors import CommandFailed
from essaim_cli.host_files import USERS_FILE, Machine
from essaim_shared.bus_server_config import BusServer, route_password, server_config
from essaim_shared.bus_users import users_file
from essaim_shared.errors import ConfigError
from essaim_shared.sealing import load_data_key, write_private
from essaim_shared.trust.founding import FOUNDING_FILE
from essaim_shared.trust.identity import has_identity
from essaim_shared.trust_objects import NodeIdentity

MASTER_USER: Final = "essaim"
DIRECTORY_MODE: Final = 0o755
PRIVATE_MODE: Final = 0o700
CONFIG_MODE: Final = 0o644
ADDRESS_OF_NOBODY: Final = ("192.0.2.1", 9)
"""RFC 5737: a route to it says which address this machine has for others; nothing is sent."""


def own_address() -> str:
    """Of the interface that leads out of this machine. Raises CommandFailed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ADDRESS_OF_NOBODY)
            return str(probe.getsockname()[0])
        except OSError as error:
            raise CommandFailed(
                "no address of this machine is known to lead to others: name it with --advertise"
            ) from error


def own_name() -> str:
    return socket.gethostname().partition(".")[0]


def check_is_new(machine: Machine) -> None:
    """Raises CommandFailed for a machine that has an identity, or files that would be lost."""
    for identity in (machine.master_identity, machine.agent_identity, machine.admin_identity):
        if has_identity(identity) or (identity / FOUNDING_FILE).exists():
            raise CommandFailed(
                f"{identity} holds an identity: this machine is in a cluster already; to leave "
                "it, have the node removed there, stop the daemons and move that directory away"
            )
    for path in (machine.master_config, machine.agent_config, machine.bus_config):
        if path.exists():
            raise CommandFailed(f"{path} exists: nothing is overwritten; move it away")


def make_directories(machine: Machine, *, has_master: bool) -> None:
    """Raises CommandFailed."""
    private: Iterable[Path] = (machine.agent_data,)
    if has_master:
        private = (machine.agent_data, machine.data, machine.master_data, machine.bus_directory)
    try:
        if not machine.directory.exists():
            machine.directory.mkdir(parents=True)
            # Whatever root's umask is: the master's user has to get to its files.
            machine.directory.chmod(DIRECTORY_MODE)
        for path in private:
            path.mkdir(mode=PRIVATE_MODE, parents=True, exist_ok=True)
        for path in (machine.run, machine.agent_run) if has_master else (machine.agent_run,):
            path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(error) from error


def write_bus(
    machine: Machine,
    cluster_id: str,
    name: str,
    identities: Iterable[NodeIdentity],
    bus_servers: Sequence[str],
) -> None:
    """The bus server's configuration, and its users as far as this machine knows them: the master
    writes all of them once it has the state. Raises CommandFailed."""
    hosts = [url.partition("://")[2].rpartition(":")[0] for url in bus_servers]
    own = machine.at(machine.ports.bus).rpartition(":")[0]
    try:
        key = load_data_key(machine.seal_key_file)
    except ConfigError as error:
        raise CommandFailed(str(error)) from error
    server = BusServer(
        name=name,
        cluster_name=cluster_id,
        listen=machine.at(machine.ports.bus),
        route_listen=machine.at(machine.ports.bus_route),
        routes=tuple(f"{host}:{machine.ports.bus_route}" for host in hosts if host != own),
        monitor_listen=machine.bus_monitor,
        pid_file=machine.bus_pid_file,
        users_file=USERS_FILE,
        identity_dir=machine.master_identity,
        route_password=route_password(key, cluster_id),
    )
    users = users_file(cluster_id, identities)
    write_private(machine.bus_directory / USERS_FILE, users.text.encode())
    write_private(machine.bus_config, server_config(server).encode())


def write_config(path: Path, text: str) -> None:
    """It holds nothing secret, and the master's user reads it, whatever root's umask is. Raises
    OSError."""
    path.write_text(text)
    path.chmod(CONFIG_MODE)


def give_to_master_user(machine: Machine) -> str:
    """Who the master and its bus server are to run as: the user of its unit if this machine has
    one, else whoever runs this command. Raises CommandFailed."""
    try:
        user = pwd.getpwnam(MASTER_USER)
    except KeyError:
        user = None
    if user is None or os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    try:
        for path in (machine.run, machine.seal_key_file):
            os.chown(path, user.pw_uid, user.pw_gid)
        give_tree(machine.data, user.pw_uid, user.pw_gid)
    except OSError as error:
        raise cannot_write(error) from error
    return MASTER_USER


def give_tree(root: Path, uid: int, gid: int) -> None:
    """Raises OSError. Not what links lead to, nor below them: that user may have had the directory
    before, and have put one there to be given somebody else's file."""
    for _, directories, files, descriptor in os.fwalk(root, follow_symlinks=False):
        os.chown(descriptor, uid, gid)
        for name in (*directories, *files):
            os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)


def cannot_write(error: OSError) -> CommandFailed:
    reason = error.strerror or error
    return CommandFailed(
        f"cannot write {error.filename or 'a file'}: {reason}; are you root, or name other "
        "directories with --directory, --data and --run"
    )
