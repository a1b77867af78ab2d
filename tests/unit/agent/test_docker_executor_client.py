"""The engine is played by a few lines that count connections."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import docker.errors
import pytest

from essaim_agent.docker_executor_client import new_client

BODY = b'{"message": "No such container"}'
ANSWER = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


class Engine:
    """Keeps each connection until the client, or `hang_up`, ends it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[socket.socket] = []
        self.requests: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        while True:
            try:
                request = connection.recv(65536)
            except OSError:
                return
            if not request:
                return
            self.requests.append(request.split(b"\r\n", 1)[0])
            connection.sendall(ANSWER)

    def hang_up(self) -> None:
        for connection in self.connections:
            connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the other end went first
        for thread in self._threads[1:]:
            thread.join()
        for end in (*self.connections, self._listener):
            end.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path / "engine.sock")
    yield engine
    engine.close()


def test_calls_about_different_containers_share_one_connection(engine: Engine) -> None:
    client = new_client(engine.path, "1.41", 10)
    for number in range(30):
        with pytest.raises(docker.errors.NotFound):
            client.inspect_container(f"c{number}")
    assert engine.requests[-1] == b"GET /v1.41/containers/c29/json HTTP/1.1"
    assert len(engine.connections) == 1
    client.close()


def test_a_connection_that_the_engine_ended_is_replaced(engine: Engine) -> None:
    client = new_client(engine.path, "1.41", 10)
    for number in range(3):
        with pytest.raises(docker.errors.NotFound):
            client.inspect_container(f"c{number}")
        engine.hang_up()
    assert len(engine.connections) == 3
    client.close()
