"""HTTP to one master. Small on purpose: `http.client` starts in a third of the time of others."""

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import urlencode

import click

from essaim_cli.errors import ApiError, MasterUnreachable
from essaim_cli.host import find_host, parse_host

REQUEST_TIMEOUT_S = 30.0
"""Longer than a master may take for a write across a change of leader."""

LINE_BYTES_MAX = 64 * 1024 * 1024
"""Of a watch: one transaction's keys and values, with those before, in base64."""

DOWNLOAD_PART_BYTES = 1024 * 1024

Filters = dict[str, list[str]]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """One kept-alive connection; a read on one that the master has closed is made once more."""

    def __init__(self, url: str) -> None:
        self.url = url
        scheme, address = parse_host(url)
        self._connection: http.client.HTTPConnection
        if scheme == "unix":
            assert isinstance(address, str)
            self._connection = _UnixConnection(address, REQUEST_TIMEOUT_S)
        else:
            assert isinstance(address, tuple)
            self._connection = http.client.HTTPConnection(*address, timeout=REQUEST_TIMEOUT_S)

    def get(self, path: str, *, filters: Filters | None = None, **query: str) -> Any:
        if filters:
            encoded = {name: dict.fromkeys(values, True) for name, values in filters.items()}
            query["filters"] = json.dumps(encoded)
        return self._request("GET", path, query, None)

    def post(self, path: str, body: Any, **query: str) -> Any:
        return self._request("POST", path, query, body)

    def download(self, path: str, file: BinaryIO) -> None:
        """Write the body of a GET into a file, however long it is. What comes may be cut off: the
        caller checks it."""
        try:
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
            if answer.status >= 400:
                raise ApiError(answer.status, _message(answer.read(), answer.status))
            while part := answer.read(DOWNLOAD_PART_BYTES):
                file.write(part)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise MasterUnreachable(
                f"the master at {self.url} broke off: {reason}; try again"
            ) from error

    def delete(self, path: str, **query: str) -> Any:
        return self._request("DELETE", path, query, None)

    def lines(self, path: str, **query: str) -> Iterator[Any]:
        """The JSON lines of an answer that goes on; ends when the master ends it.

        Raises ApiError, MasterUnreachable (also when the connection is lost in the middle).
        """
        self._connection.close()
        try:
            self._connection.request("GET", f"{path}?{urlencode(query)}")
            answer = self._connection.getresponse()
            if answer.status >= 400:
                raise ApiError(answer.status, _message(answer.read(), answer.status))
            while line := answer.readline(LINE_BYTES_MAX):
                yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise MasterUnreachable(f"the connection to {self.url} is lost: {error}") from error
        finally:
            self._connection.close()

    def _request(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        target = f"{path}?{urlencode(query)}" if query else path
        payload = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            answer, content = self._exchange(method, target, payload, headers)
        except TimeoutError as error:
            raise MasterUnreachable(
                f"the master at {self.url} did not answer in {REQUEST_TIMEOUT_S:.0f} s; "
                "whether a change happened is unknown: look before you repeat it"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise MasterUnreachable(
                f"cannot reach a master at {self.url}: {reason}. Is essaim-master running? "
                "Name another with --host or ESSAIM_HOST, or raise a lab: essaim lab up"
            ) from error
        if answer.status >= 400:
            raise ApiError(answer.status, _message(content, answer.status))
        if "json" in (answer.getheader("Content-Type") or ""):
            return json.loads(content)
        return content.decode()

    def _exchange(
        self, method: str, target: str, payload: bytes | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        kept_alive = self._connection.sock is not None
        if kept_alive and method != "GET":
            # A write on a kept-alive connection that breaks may have happened; on a fresh one the
            # master was reached.
            self._connection.close()
        try:
            self._connection.request(method, target, payload, headers)
            answer = self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self._connection.close()
            if not kept_alive or method != "GET":
                raise
            self._connection.request(method, target, payload, headers)
            answer = self._connection.getresponse()
        return answer, answer.read()


def _message(content: bytes, status: int) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace").strip() or f"the master answered {status}"


def client_of(context: click.Context) -> Client:
    """The client of this command's --host; made when a command first needs it."""
    url = context.find_root().obj
    return Client(url or find_host())
