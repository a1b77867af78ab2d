"""HTTP to a master. Small on purpose: `http.client` starts in a third of the time of others."""

import http.client
import json
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode

import click

from essaim_cli.client_tls import (
    MASTER_NAME,
    is_verdict,
    reason_of,
    tls_context_believing,
    tls_context_of,
)
from essaim_cli.contexts import Context, Contexts
from essaim_cli.errors import ApiError, BrokenOff, CommandFailed, MasterUnreachable
from essaim_cli.host import find_host, find_identity, other_masters, parse_host
from essaim_cli.pace import pause

REQUEST_TIMEOUT_S = 30.0
"""Longer than a master may take for a write across a change of leader."""

CONNECT_TIMEOUT_S = 5.0
"""Before a master at the other end of a network counts as gone."""

LINE_BYTES_MAX = 64 * 1024 * 1024
"""Of a watch: one transaction's keys and values, with those before, in base64."""

DOWNLOAD_PART_BYTES = 1024 * 1024

MASTERS_HEADER = "Essaim-Masters"
"""Of a refusal by a master that stands by: where those are that answer, `HOST:PORT` by commas."""

RATE_WAITS_MAX = 5
"""How often a request that was turned away for coming too often is asked again."""
RATE_WAIT_S_MAX = 5.0

_ENDED = (
    http.client.RemoteDisconnected,
    BrokenPipeError,
    ConnectionResetError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)
"""The other side took its leave."""

Filters = dict[str, list[str]]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=REQUEST_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _TcpConnection(http.client.HTTPConnection):
    """With TLS, if there is a context for it."""

    def __init__(self, name: str, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(name, port, timeout=CONNECT_TIMEOUT_S)
        self._tls = tls

    def connect(self) -> None:
        super().connect()
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=MASTER_NAME)
        self.sock.settimeout(REQUEST_TIMEOUT_S)


class Client:
    """A kept-alive connection to one of the masters that are known.

    What did not reach a master goes to the next one. So does a read that broke off: a write that
    did may have happened, which its sender has to find out (BrokenOff).
    """

    def __init__(
        self,
        url: str,
        *others: str,
        identity: Path | None = None,
        authorities: str = "",
        token: str = "",
    ) -> None:
        """`identity`: the directory with the certificate to show to masters over TCP
        (`client_tls`); `authorities`: whom to believe without one (PEM). With neither TCP is
        spoken without TLS, and a `token` is never sent."""
        self._authorities = authorities
        self._token = token
        self._masters = [url, *(other for other in others if other != url)]
        self._identity = identity
        self._tls: ssl.SSLContext | None = None
        self.url = url
        self._connection = self._connection_to(url)

    def add_masters(self, urls: Iterable[str]) -> None:
        """More masters to turn to when this one is lost."""
        self._masters += [url for url in urls if url not in self._masters]

    @property
    def identity(self) -> Path | None:
        """The directory whose certificate is shown; None where none is: on a socket, say."""
        return None if self.url.startswith("unix:") else self._identity

    def show_new_certificate(self) -> None:
        """Take what the identity's directory holds now, for connections from here on."""
        self._connection.close()
        self._tls = None
        self._connection = self._connection_to(self.url)

    def close(self) -> None:
        self._connection.close()

    def get(self, path: str, *, filters: Filters | None = None, **query: str) -> Any:
        if filters:
            encoded = {name: dict.fromkeys(values, True) for name, values in filters.items()}
            query["filters"] = json.dumps(encoded)
        return self._request("GET", path, query, None)

    def post(
        self, path: str, body: Any, *, headers: Mapping[str, str] | None = None, **query: str
    ) -> Any:
        """Raises BrokenOff when the request may have been heard and no answer came."""
        return self._request("POST", path, query, body, headers)

    def download(self, path: str, file: BinaryIO) -> None:
        """Write the body of a GET into a file, however long it is. What comes may be cut off: the
        caller checks it."""
        try:
            self._connection.request("GET", path, headers=self._proof())
            answer = self._connection.getresponse()
            if answer.status >= 400:
                raise ApiError(answer.status, _message(answer.read(), answer.status))
            while part := answer.read(DOWNLOAD_PART_BYTES):
                file.write(part)
        except (OSError, http.client.HTTPException) as error:
            raise MasterUnreachable(
                f"the master at {self.url} broke off: {_reason(error)}{self._tls_hint()}; try again"
            ) from error

    def delete(self, path: str, **query: str) -> Any:
        return self._request("DELETE", path, query, None)

    def lines(self, path: str, **query: str) -> Iterator[Any]:
        """The JSON lines of an answer that goes on; ends when the master ends it.

        Raises ApiError, MasterUnreachable (also when the connection is lost in the middle).
        """
        self._connection.close()
        try:
            self._connection.request("GET", f"{path}?{urlencode(query)}", headers=self._proof())
            answer = self._connection.getresponse()
            if answer.status >= 400:
                raise ApiError(answer.status, _message(answer.read(), answer.status))
            while line := answer.readline(LINE_BYTES_MAX):
                yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise MasterUnreachable(
                f"the connection to {self.url} is lost: {_reason(error)}"
            ) from error
        finally:
            self._connection.close()

    def _request(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: Any,
        more_headers: Mapping[str, str] | None = None,
    ) -> Any:
        target = f"{path}?{urlencode(query)}" if query else path
        payload = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        headers.update(more_headers or {})
        asked = waited = 0
        while True:
            asked += 1
            try:
                answer, content = self._exchange(method, target, payload, headers)
            except MasterUnreachable as error:
                is_last = asked >= len(self._masters)
                self.turn_to_next()
                if is_last or (method != "GET" and isinstance(error, BrokenOff)):
                    raise
                continue
            if answer.status == http.HTTPStatus.TOO_MANY_REQUESTS and waited < RATE_WAITS_MAX:
                # It was turned away before anything happened.
                waited += 1
                asked -= 1
                pause(_wait_s(answer.getheader("Retry-After")))
                continue
            # One that stands by did nothing: whom it names may.
            masters = answer.getheader(MASTERS_HEADER)
            if masters:
                self.add_masters(f"tcp://{address}" for address in masters.split(","))
            if not masters or asked >= len(self._masters):
                break
            self.turn_to_next()
        if answer.status >= 400:
            raise ApiError(answer.status, _message(content, answer.status))
        if "json" in (answer.getheader("Content-Type") or ""):
            return json.loads(content)
        return content.decode()

    def turn_to_next(self) -> None:
        self._connection.close()
        place = self._masters.index(self.url)
        self.url = self._masters[(place + 1) % len(self._masters)]
        self._connection = self._connection_to(self.url)

    def _connection_to(self, url: str) -> http.client.HTTPConnection:
        scheme, address = parse_host(url)
        if scheme == "unix":
            assert isinstance(address, str)
            return _UnixConnection(address)
        assert isinstance(address, tuple)
        if self._tls is None and self._identity is not None:
            self._tls = tls_context_of(self._identity)
        elif self._tls is None and self._authorities:
            self._tls = tls_context_believing(self._authorities)
        if self._token and self._tls is None:
            raise CommandFailed(
                f"a token is sent over TLS only, and {url} is asked without: make the context "
                "again with --ca FILE (essaim cluster ca --certificates prints it)"
            )
        return _TcpConnection(*address, self._tls)

    def _exchange(
        self, method: str, target: str, payload: bytes | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Raises MasterUnreachable when nobody heard the request, BrokenOff when somebody may."""
        kept_alive = self._connection.sock is not None
        if kept_alive and method != "GET":
            # A write on a kept-alive connection that breaks may have happened; on a fresh one the
            # master was reached.
            self._connection.close()
        if self._connection.sock is None:
            self._connect()
        try:
            try:
                return self._send(method, target, payload, headers)
            except _ENDED:
                if not kept_alive or method != "GET":
                    raise
                self._connection.close()
                self._connect()
                return self._send(method, target, payload, headers)
        except TimeoutError as error:
            self._connection.close()
            raise BrokenOff(
                f"the master at {self.url} did not answer in {REQUEST_TIMEOUT_S:.0f} s"
                f"{_doubt(method)}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            verdict = self._verdict(error)
            self._connection.close()
            if verdict is not None:
                raise self._unreachable(verdict) from error
            raise BrokenOff(
                f"the master at {self.url} broke off: {_reason(error)}{self._tls_hint()}"
                f"{_doubt(method)}"
            ) from error

    def _connect(self) -> None:
        try:
            self._connection.connect()
        except OSError as error:
            self._connection.close()
            if is_verdict(error):
                raise self._unreachable(error) from error
            raise MasterUnreachable(
                f"cannot reach a master at {self.url}: {_reason(error)}. "
                "Is essaim-master running? Name another with --host or ESSAIM_HOST, "
                "or raise a lab: essaim lab up"
            ) from error

    def _verdict(self, error: Exception) -> Exception | None:
        """In TLS 1.3 the master's verdict on our certificate comes after the handshake: instead
        of the answer, or while the request is sent, which then fails before it is read."""
        if is_verdict(error):
            return error
        connection = self._connection.sock
        if isinstance(error, _ENDED) and isinstance(connection, ssl.SSLSocket):
            try:
                connection.recv(1)
            except OSError as told:
                return told if is_verdict(told) else None
        return None

    def _unreachable(self, error: Exception) -> MasterUnreachable:
        return MasterUnreachable(
            f"the master at {self.url} and the certificate in {self._identity} do not go "
            f"together: {_reason(error)}; name another with --identity or ESSAIM_IDENTITY"
        )

    def _proof(self) -> dict[str, str]:
        is_tls = isinstance(self._connection, _TcpConnection) and self._tls is not None
        return {"Authorization": f"Bearer {self._token}"} if self._token and is_tls else {}

    def _tls_hint(self) -> str:
        """For a master over TCP that hangs up on whoever does not speak TLS."""
        if self._tls is not None or self.url.startswith("unix:"):
            return ""
        return "; a master with TLS wants to know who asks: --identity DIRECTORY or ESSAIM_IDENTITY"

    def _send(
        self, method: str, target: str, payload: bytes | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        self._connection.request(method, target, payload, {**headers, **self._proof()})
        answer = self._connection.getresponse()
        return answer, answer.read()


def _wait_s(text: str | None) -> float:
    return min(float(text), RATE_WAIT_S_MAX) if text and text.isdigit() else 1.0


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return reason_of(error)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _doubt(method: str) -> str:
    if method == "GET":
        return ""
    return "; whether a change happened is unknown: look before you repeat it"


def _message(content: bytes, status: int) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace").strip() or f"the master answered {status}"


def client_of(context: click.Context) -> Client:
    """The client of this command's --host; made when a command first needs it.

    Several masters may be named, with commas between them; those of a lab know each other.
    """
    root = context.find_root()
    named = root.params.get("identity")
    chosen = _chosen(root)
    if isinstance(chosen, Context):
        identity = named or chosen.certificate
        client = Client(
            *chosen.hosts,
            identity=Path(identity) if identity else None,
            authorities=chosen.authorities,
            token=chosen.token,
        )
    else:
        urls = [url.strip() for url in chosen.split(",")] if chosen else [find_host()]
        identity_dir = find_identity(named, urls[0])
        client = Client(*urls, *other_masters(urls[0]), identity=identity_dir)
    context.call_on_close(client.close)
    return client


def _chosen(root: click.Context) -> Context | str:
    """A context, or masters with commas between them; empty when nobody said (`host`)."""
    host, name = root.params.get("host"), root.params.get("context_name")
    contexts = Contexts()
    given = click.core.ParameterSource.COMMANDLINE
    if host and root.get_parameter_source("host") is given:
        return str(host)
    if name and root.get_parameter_source("context_name") is given:
        return contexts.read(name)
    if host:
        return str(host)
    name = name or contexts.current
    return contexts.read(name) if name else ""
