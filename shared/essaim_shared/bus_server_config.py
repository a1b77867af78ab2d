"""The configuration of a cluster's nats-server 2.9.

* Clients show a certificate of the cluster's authority, and log in with a key that the users file
  (`bus_users`) names. The server has the certificate of its host's master.
* Servers show each other certificates of masters, too, and a password that only masters know
  (`route_password`): an agent's certificate would pass the handshake, and whoever is a
  server may say anything on the bus.
* What the server tells of itself (`/varz`, `/connz`) is for its host's master alone: on loopback.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from essaim_shared.limits import BUS_MESSAGE_BYTES_MAX
from essaim_shared.sealing import DataKey
from essaim_shared.trust.identity import AUTHORITIES_FILE, OWN_FILE

ROUTE_USER: Final = "essaim-master"
CONNECTIONS_MAX: Final = 4_096
"""Of clients. Each has a goroutine or three and up to two buffers of 64 KiB."""
SUBSCRIPTIONS_MAX: Final = 256
"""Of one client. An agent has two, a master some twenty."""
CONTROL_LINE_BYTES_MAX: Final = 1024
"""Of one command: the longest subject and reply, and a size."""
PENDING_BYTES_MAX: Final = 32 * 1024 * 1024
"""For one client that is slow to read; beyond it is cut off and comes back."""
PING_INTERVAL_S: Final = 2
PINGS_MAX: Final = 2
"""A peer that is cut off is noticed within seconds instead of four minutes."""
TLS_TIMEOUT_S: Final = 5


class BusServer(msgspec.Struct, frozen=True):
    name: str
    cluster_name: str
    listen: str
    """`HOST:PORT` for clients."""
    route_listen: str
    """`HOST:PORT` for other servers."""
    routes: tuple[str, ...]
    """`HOST:PORT` of the other servers."""
    monitor_listen: str
    """`HOST:PORT`, on loopback."""
    pid_file: Path
    users_file: str
    """Its name: it stands beside the configuration (nats-server takes every path in an include
    for a relative one)."""
    identity_dir: Path
    """Of the host's master."""
    route_password: str
    """Its repr must go nowhere: it is not for logs."""


def route_password(key: DataKey, cluster_id: str) -> str:
    """Of the masters' data key: nothing that an agent holds leads to it."""
    return key.derived(cluster_id.encode(), b"bus routes").hex()


def server_config(server: BusServer) -> str:
    """To be kept readable by its owner alone."""
    return (
        f'server_name: "{server.name}"\n'
        f'listen: "{server.listen}"\n'
        f'http: "{server.monitor_listen}"\n'
        f'pid_file: "{server.pid_file}"\n'
        f"max_connections: {CONNECTIONS_MAX}\n"
        f"max_subscriptions: {SUBSCRIPTIONS_MAX}\n"
        f"max_payload: {BUS_MESSAGE_BYTES_MAX}\n"
        f"max_control_line: {CONTROL_LINE_BYTES_MAX}\n"
        f"max_pending: {PENDING_BYTES_MAX}\n"
        f'ping_interval: "{PING_INTERVAL_S}s"\n'
        f"ping_max: {PINGS_MAX}\n"
        f"{_tls('', server.identity_dir)}"
        f'include "./{server.users_file}"\n'
        "cluster {\n"
        f'  name: "{server.cluster_name}"\n'
        f'  listen: "{server.route_listen}"\n'
        f"{_tls('  ', server.identity_dir)}"
        "  authorization {\n"
        f'    user: "{ROUTE_USER}", password: "{server.route_password}"\n'
        f"    timeout: {TLS_TIMEOUT_S}\n"
        "  }\n"
        f"  no_advertise: true\n"
        f"  routes = [\n{_routes(server)}  ]\n"
        "}\n"
    )


def _routes(server: BusServer) -> str:
    login = f"{ROUTE_USER}:{server.route_password}"
    return "".join(f"    nats-route://{login}@{address}\n" for address in server.routes)


def _tls(indent: str, identity_dir: Path) -> str:
    lines: Sequence[str] = (
        "tls {",
        f'  cert_file: "{identity_dir / OWN_FILE}"',
        f'  key_file: "{identity_dir / OWN_FILE}"',
        f'  ca_file: "{identity_dir / AUTHORITIES_FILE}"',
        "  verify: true",
        f"  timeout: {TLS_TIMEOUT_S}",
        "}",
    )
    return "".join(f"{indent}{line}\n" for line in lines)
