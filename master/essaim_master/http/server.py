"""The sockets of the HTTP API: a unix socket for this host, a TCP port for the others.

The TCP port speaks TLS, and hands on whose certificate was shown, if any was. Without TLS whoever
reaches the port commands the cluster, so then it listens on loopback and private addresses only.
"""

import asyncio
import ipaddress
import os
import socket
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from essaim_master.http.protocol import REQUEST_TIMEOUT_S, PeerProtocol
from essaim_master.http.strangers import HOLDERS_MAX, Strangers
from essaim_master.listening import bound_socket
from essaim_master.refusals import Refusals
from essaim_shared.errors import BrokenInvariant, ConfigError
from essaim_shared.trust.tls import Tls
from essaim_shared.trust.tls_server import listen as listen_on

LAB_NETWORKS = ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
"""Loopback and RFC 1918."""
ALL_NETWORKS = ("0.0.0.0/0", "::/0")

SOCKET_MODE = 0o660
CONNECTIONS_MAX = 900
"""Below the usual limit of 1,024 file descriptors of a process. More get 503."""
KEEP_ALIVE_S = 75
"""Clients reuse a connection for longer than they pause between two requests."""
BACKLOG = 512
STOP_GRACE_S = 5.0
"""For requests under way when the server stops."""


class Application(Protocol):
    """An ASGI application that can be told to let go of those who wait."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def close(self) -> None: ...


class HttpServer:
    """Serves one Application; started and stopped once."""

    def __init__(
        self,
        app: Application,
        on_broken: Callable[[BrokenInvariant], None],
        socket_path: Path | None = None,
        listen: str | None = None,
        networks: Iterable[str] = LAB_NETWORKS,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        tls: Tls | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        """`listen` is `ADDRESS:PORT`, one of `networks` if there is no TLS; `on_broken` ends the
        process: the web server itself would only log a broken invariant and go on."""
        self._app = app
        self._socket_path = socket_path
        self._tls = tls
        self._refusals = refusals or Refusals()
        allowed = networks if tls is None else ALL_NETWORKS
        self._listen = None if listen is None else _checked_listen_address(listen, allowed)
        self._request_timeout_s = request_timeout_s
        self._state = ServerState()
        self._strangers = Strangers()
        self._holders = {
            role: Strangers(most, CONNECTIONS_MAX) for role, most in HOLDERS_MAX.items()
        }
        self._servers: list[asyncio.Server] = []
        self._bound_inode: int | None = None
        self._config = uvicorn.Config(
            _reporting(app, on_broken),
            http=PeerProtocol,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
        )

    async def start(self) -> None:
        """Returns once connections are taken. Raises ConfigError for a socket it cannot have."""
        self._config.load()
        bound: list[socket.socket] = []
        try:
            if self._socket_path is not None:
                bound.append(_bind_unix(self._socket_path))
                self._bound_inode = self._socket_path.stat().st_ino
            if self._listen is not None:
                bound.append(_bind_tcp(*self._listen))
        except ConfigError:
            for taken in bound:
                taken.close()
            self._remove_socket()
            raise
        for taken in bound:
            context = None
            if self._tls is not None and taken.family != socket.AF_UNIX:
                context = self._tls.server(wants_certificate=False)
            self._servers.append(
                await listen_on(self._new_protocol, taken, context, BACKLOG, self._refused)
            )

    @property
    def tcp_port(self) -> int:
        """The port that is listened on, which the system chose if 0 was asked for."""
        for server in self._servers:
            for listening in server.sockets:
                if listening.family != socket.AF_UNIX:
                    return int(listening.getsockname()[1])
        raise BrokenInvariant("tcp_port of a server that does not listen on TCP")

    @property
    def connections(self) -> frozenset[PeerProtocol]:
        """Those that are open now."""
        return frozenset(
            connection
            for connection in self._state.connections
            if isinstance(connection, PeerProtocol)
        )

    async def stop(self) -> None:
        """Take no more connections, let requests under way end, cut those that do not."""
        for server in self._servers:
            server.close()
        self._app.close()
        for connection in self.connections:
            connection.shutdown()
        tasks = set(self._state.tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_GRACE_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        for connection in self.connections:
            connection.transport.close()
        self._remove_socket()

    def _refused(self, host: str, reason: str) -> None:
        self._refusals.tell(f"refused the HTTPS connection of {host}: {reason}")

    def _new_protocol(self) -> PeerProtocol:
        return PeerProtocol(
            self._config, self._state, self._request_timeout_s, self._strangers, self._holders
        )

    def _remove_socket(self) -> None:
        """Unless another master has put its own there."""
        if self._socket_path is None or self._bound_inode is None:
            return
        try:
            if self._socket_path.stat().st_ino == self._bound_inode:
                self._socket_path.unlink()
        except FileNotFoundError:
            return


def _reporting(app: ASGIApp, on_broken: Callable[[BrokenInvariant], None]) -> ASGIApp:
    async def reporting(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except BrokenInvariant as broken:
            on_broken(broken)
            raise

    return reporting


def _checked_listen_address(listen: str, networks: Iterable[str]) -> tuple[str, int]:
    host, _, port_text = listen.rpartition(":")
    host = host.strip("[]")
    if not (port_text.isascii() and port_text.isdigit() and int(port_text) < 65536):
        raise ConfigError(f"http_listen '{listen}' is not ADDRESS:PORT")
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise ConfigError(
            f"http_listen '{listen}': '{host}' is not an IP address, names are not resolved here"
        ) from error
    allowed = [ipaddress.ip_network(network) for network in networks]
    if not any(address in network for network in allowed):
        raise ConfigError(
            f"http_listen '{listen}' is refused: without TLS the API listens on loopback and "
            f"private addresses only ({', '.join(str(network) for network in allowed)})"
        )
    return host, int(port_text)


def _bind_unix(path: Path) -> socket.socket:
    """A listening socket with its mode set before anyone can connect."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale_socket(path)
        bound.bind(str(path))
        path.chmod(SOCKET_MODE)
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen on {path}: {error.strerror or error}") from error
    except ConfigError:
        bound.close()
        raise
    return bound


def _remove_stale_socket(path: Path) -> None:
    """Remove what a killed master left. Raises ConfigError when somebody still answers there."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"cannot listen on {path}: it exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConfigError(f"cannot listen on {path}: another process already does")


def _bind_tcp(host: str, port: int) -> socket.socket:
    try:
        return bound_socket(host, port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}") from error
