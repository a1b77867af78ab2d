"""What a lab consists of: names, addresses, ports and paths. Pure.

Every name on the machine is derived from the lab's name and the host's number, so that `down`
can find all of it without any record of what `up` did:

    namespace   essaim-NAME-h1 … essaim-NAME-hN, and essaim-NAME-switch with the bridge in it
    cgroup      /essaim-NAME-h1 …
    run         RUN_ROOT/NAME/h1/…       sockets, pid files, configuration, logs
                RUN_ROOT/NAME/identity   the user's certificate and key
    data        DATA_ROOT/NAME/h1/…      engine, Raft log, agent's journal, identities

The bridge has a namespace of its own: on a machine with an engine the first namespace sends
bridged frames through the firewall of that engine, which would drop them.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from essaim_cli.lab.errors import LabError

HOSTS_MAX = 20
"""Each host has up to four processes of its own; a lab is a tool for one machine."""

MASTERS_ALLOWED = (1, 3, 5)

SUBNETS_MAX = 100
"""Labs on one machine at the same time, each with its own 10.98.K.0/24."""

OVERLAY_VNI_FIRST = 70_001
OVERLAY_UDP_PORT = 7472
OVERLAY_SUBNET = "10.244.0.0/20"
UNDERLAY_MTU_BYTES = 1500
OVERLAY_MTU_BYTES = UNDERLAY_MTU_BYTES - 50

HTTP_PORT = 7400
RAFT_PORT = 7401
METRICS_PORT = 7402
BUS_PORT = 4222
BUS_ROUTE_PORT = 6222
BUS_MONITOR_PORT = 8222

LOOPBACK_PORT_FIRST = 27_000
"""Loopback labs put host I's ports of lab K at 27000 + 200 K + 10 I: below the ephemeral range."""

MACHINE_ADDRESS_LAST_OCTET = 254
"""The machine's own address on the lab's bridge."""

LOOPBACK_LABS_MAX = 28
"""As many as fit under 32768, where ports of outgoing connections begin."""

ADMIN_IDENTITY = Path("identity", "admin")
"""Below a lab's run directory."""

ExecutorName = Literal["docker", "process"]
PartName = Literal["bus", "engine", "master", "agent"]
PARTS: tuple[PartName, ...] = ("bus", "engine", "master", "agent")
"""In the order in which they are of use to each other; all are started at once."""

_NAME = re.compile(r"[a-z][a-z0-9]{0,11}")


@dataclass(frozen=True, slots=True)
class Host:
    """One host of a lab. Ports differ between hosts only on loopback."""

    lab: str
    number: int
    """From 1."""
    address: str
    is_master: bool
    """One of the first masters."""
    is_standby: bool
    """Its master stands by until the node is promoted."""
    executor: ExecutorName
    run_dir: Path
    data_dir: Path
    http_port: int
    raft_port: int
    metrics_port: int
    bus_port: int
    bus_route_port: int
    bus_monitor_port: int
    overlay_udp_port: int

    @property
    def name(self) -> str:
        return f"h{self.number}"

    @property
    def namespace(self) -> str:
        return f"essaim-{self.lab}-{self.name}"

    @property
    def namespace_path(self) -> Path:
        return Path("/run/netns", self.namespace)

    @property
    def cgroup(self) -> str:
        """Parent of all containers of this host's engine, in every cgroup hierarchy."""
        return f"/essaim-{self.lab}-{self.name}"

    @property
    def switch_port(self) -> str:
        """The bridge's end of the host's cable: set down, the host is cut off."""
        return self.name

    @property
    def engine_socket(self) -> Path:
        return self.run_dir / "docker.sock"

    @property
    def engine_pid_file(self) -> Path:
        """The engine's own; ours stands beside those of the other parts."""
        return self.run_dir / "dockerd.pid"

    @property
    def engine_exec_root(self) -> Path:
        return self.run_dir / "engine"

    @property
    def containerd_pid_file(self) -> Path:
        """Written by the engine for the containerd that it starts."""
        return self.engine_exec_root / "containerd" / "containerd.pid"

    @property
    def engine_data_root(self) -> Path:
        return self.data_dir / "engine"

    @property
    def master_socket(self) -> Path:
        return self.run_dir / "master.sock"

    @property
    def seal_key_file(self) -> Path:
        """Of the masters: a copy for each, with the same content."""
        return self.data_dir / "seal.key"

    @property
    def master_identity_dir(self) -> Path:
        return self.data_dir / "identity" / "master"

    @property
    def agent_identity_dir(self) -> Path:
        return self.data_dir / "identity" / "agent"

    @property
    def admin_identity_dir(self) -> Path:
        """Of the lab's user, for whom every master of the lab answers."""
        return self.run_dir.parent / ADMIN_IDENTITY

    @property
    def agent_run_dir(self) -> Path:
        return self.run_dir / "agent"

    @property
    def bus_url(self) -> str:
        return f"nats://{self.address}:{self.bus_port}"

    @property
    def bus_users_file(self) -> Path:
        return self.run_dir / "bus-users.conf"

    @property
    def bus_server_pid_file(self) -> Path:
        """The server's own; ours stands beside those of the other parts."""
        return self.run_dir / "nats.pid"

    @property
    def parts(self) -> tuple[PartName, ...]:
        """The processes that this host has. Whoever is root where a bus server runs can say
        anything on the bus: so there is none where there is no master."""
        has_master = self.is_master or self.is_standby
        wanted: dict[PartName, bool] = {
            "bus": has_master,
            "engine": self.executor == "docker",
            "master": has_master,
            "agent": True,
        }
        return tuple(part for part in PARTS if wanted[part])

    def pid_file(self, part: PartName) -> Path:
        return self.run_dir / f"{part}.pid"

    def log_file(self, part: PartName) -> Path:
        return self.run_dir / f"{part}.log"

    def config_file(self, part: PartName) -> Path:
        suffix = {"bus": "conf", "engine": "json", "master": "toml", "agent": "toml"}[part]
        return self.run_dir / f"{part}.{suffix}"


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole lab. Two labs of the same arguments are equal."""

    name: str
    executor: ExecutorName
    subnet_number: int
    run_dir: Path
    data_dir: Path
    hosts: tuple[Host, ...]

    @property
    def masters(self) -> tuple[Host, ...]:
        """The first ones."""
        return tuple(host for host in self.hosts if host.is_master)

    @property
    def standbys(self) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts if host.is_standby)

    @property
    def bus_hosts(self) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts if "bus" in host.parts)

    @property
    def admin_identity_dir(self) -> Path:
        return self.run_dir / ADMIN_IDENTITY

    @property
    def switch_namespace(self) -> str:
        return f"essaim-{self.name}-switch"

    @property
    def namespaces(self) -> tuple[str, ...]:
        return (*(host.namespace for host in self.hosts), self.switch_namespace)

    @property
    def machine_link(self) -> str:
        """The machine's own cable to the bridge, so that a browser here reaches the hosts."""
        return "eslab" + hashlib.blake2s(self.name.encode(), digest_size=4).hexdigest()

    @property
    def machine_address(self) -> str:
        return f"10.98.{self.subnet_number}.{MACHINE_ADDRESS_LAST_OCTET}"

    @property
    def overlay_vni(self) -> int:
        return OVERLAY_VNI_FIRST + self.subnet_number

    def host(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts)
        raise LabError(f'lab "{self.name}" has no host "{name}": it has {known}')


def check_name(name: str) -> str:
    """Names become parts of device names, cgroups and subjects, and are told apart by dashes."""
    if not _NAME.fullmatch(name):
        raise LabError(
            f'"{name}" cannot name a lab: use 1 to 12 lower-case letters and digits, a letter first'
        )
    return name


def plan_lab(
    name: str,
    *,
    host_count: int,
    master_count: int,
    executor: ExecutorName,
    subnet_number: int,
    run_root: Path,
    data_root: Path,
    standby_count: int = 0,
) -> Topology:
    """Lay out a lab; LabError when the numbers make no cluster."""
    check_name(name)
    if not 1 <= host_count <= HOSTS_MAX:
        raise LabError(f"--hosts {host_count}: a lab has 1 to {HOSTS_MAX} hosts")
    if master_count not in MASTERS_ALLOWED:
        raise LabError(f"--masters {master_count}: a cluster has 1, 3 or 5 masters")
    if master_count > host_count:
        raise LabError(
            f"--masters {master_count} with --hosts {host_count}: each master needs its own host"
        )
    if not 0 <= standby_count <= host_count - master_count:
        raise LabError(
            f"--standbys {standby_count}: {host_count - master_count} of the {host_count} hosts "
            "have no master"
        )
    hosts = tuple(
        _plan_host(
            name,
            number,
            number <= master_count,
            master_count < number <= master_count + standby_count,
            executor,
            subnet_number,
            run_root,
            data_root,
        )
        for number in range(1, host_count + 1)
    )
    return Topology(name, executor, subnet_number, run_root / name, data_root / name, hosts)


def _plan_host(
    lab: str,
    number: int,
    is_master: bool,
    is_standby: bool,
    executor: ExecutorName,
    subnet_number: int,
    run_root: Path,
    data_root: Path,
) -> Host:
    on_loopback = executor == "process"
    first = LOOPBACK_PORT_FIRST + 200 * subnet_number + 10 * (number - 1)
    ports = (
        tuple(range(first, first + 7))
        if on_loopback
        else (
            HTTP_PORT,
            RAFT_PORT,
            METRICS_PORT,
            BUS_PORT,
            BUS_ROUTE_PORT,
            BUS_MONITOR_PORT,
            OVERLAY_UDP_PORT,
        )
    )
    return Host(
        lab,
        number,
        "127.0.0.1" if on_loopback else f"10.98.{subnet_number}.{number}",
        is_master,
        is_standby,
        executor,
        run_root / lab / f"h{number}",
        data_root / lab / f"h{number}",
        *ports,
    )
