"""Docker's HTTP API over a unix socket, the same few calls for every peer.

A measured peer must not pay for its client: one kept-alive connection, no SDK.
"""

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

TIMEOUT_S = 60.0


class ApiFailure(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class EngineApi:
    def __init__(self, path: Path, timeout_s: float = TIMEOUT_S) -> None:
        self.path = path
        self._connection = _UnixConnection(path, timeout_s)

    def call(self, method: str, target: str, body: Any = None) -> Any:
        """The decoded answer. Raises ApiFailure, or OSError when nobody answers in time."""
        payload = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            self._connection.request(method, f"/v1.41{target}", payload, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise OSError(f"{self.path}: {error!r}") from error
        decoded = json.loads(content) if content.strip() else None
        if answer.status >= 400:
            raise ApiFailure(answer.status, (decoded or {}).get("message", ""))
        return decoded

    def get(self, target: str) -> Any:
        return self.call("GET", target)

    def post(self, target: str, body: Any = None) -> Any:
        return self.call("POST", target, body)

    def delete(self, target: str) -> Any:
        return self.call("DELETE", target)


def filters(**wanted: str) -> str:
    return "filters=" + quote(json.dumps({name: [value] for name, value in wanted.items()}))
