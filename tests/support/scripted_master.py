"""A master that answers from a script, on a unix socket: for what no real one does on demand.

A route holds what it answers, one after another; the last answer is given for ever. An answer is
a JSON value, a status with a message (`Refusal`), or `BREAK`: the request is heard and the
connection ends without an answer.
"""

import dataclasses
import json
import socket
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import urlsplit

BREAK = object()


@dataclasses.dataclass(frozen=True)
class Refusal:
    status: int
    message: str
    retry_after: str = ""


class ScriptedMaster:
    def __init__(self, socket_path: Path, script: dict[str, Sequence[Any]]) -> None:
        self.url = f"unix://{socket_path}"
        self.heard: list[tuple[str, Any]] = []
        """Each request: `METHOD /path`, and its body."""
        self._left = {route: list(answers) for route, answers in script.items()}
        self._server = _Server(str(socket_path), _Handler)
        self._server.master = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, route: str, body: Any) -> Any:
        self.heard.append((route, body))
        answers = self._left.get(route)
        if not answers:
            return Refusal(404, f"{route} is not in the script")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def bodies(self, route: str) -> list[Any]:
        return [body for heard, body in self.heard if heard == route]


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    master: ScriptedMaster


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        self.client_address = ("cli", 0)
        super().handle_one_request()

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        assert isinstance(self.server, _Server)
        answer = self.server.master.answer(f"{self.command} {urlsplit(self.path).path}", body)
        if answer is BREAK:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, value, retry_after = 200, answer, ""
        if isinstance(answer, Refusal):
            status, value = answer.status, {"message": answer.message}
            retry_after = answer.retry_after
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_POST = do_DELETE = do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""
