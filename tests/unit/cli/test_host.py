"""Which master a command talks to when the user did not say."""

import json
import socket
import threading
from pathlib import Path

import pytest

from essaim_cli import host

LEADER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
NO_LEADER = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


class Masters:
    """Sockets that answer one line to whoever connects; `None` listens and never answers."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._listeners: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def add_lab(self, name: str, *answers: bytes | None) -> list[str]:
        directory = self.run / name
        directory.mkdir(parents=True)
        paths = [str(directory / f"m{number}") for number, _ in enumerate(answers, start=1)]
        masters = [{"host": path[-2:], "socket": path} for path in paths]
        (directory / "lab.json").write_text(json.dumps({"masters": masters}))
        for path, answer in zip(paths, answers, strict=True):
            listener = socket.socket(socket.AF_UNIX)
            self._listeners.append(listener)
            listener.bind(path)
            listener.listen()
            if answer is not None:
                thread = threading.Thread(target=_serve, args=(listener, answer))
                self._threads.append(thread)
                thread.start()
        return [f"unix://{path}" for path in paths]

    def close(self) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for listener in self._listeners:
            listener.close()


def _serve(listener: socket.socket, answer: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(1024)
            connection.sendall(answer)


@pytest.fixture
def masters(tmp_path):
    found = Masters(tmp_path)
    yield found
    found.close()


def find(masters: Masters) -> str:
    return host.find_host(masters.run)


def test_a_master_that_knows_a_leader_is_preferred_to_one_that_is_cut_off(masters):
    _, second, _ = masters.add_lab("lab", NO_LEADER, LEADER, LEADER)
    assert find(masters) == second


def test_without_any_leader_the_first_that_listens_shall_say_so(masters):
    first, _ = masters.add_lab("lab", NO_LEADER, NO_LEADER)
    masters.add_lab("other", LEADER)
    assert find(masters) == first


def test_of_several_labs_the_one_called_lab_is_taken(masters):
    masters.add_lab("a", LEADER)
    (wanted,) = masters.add_lab("lab", LEADER)
    assert find(masters) == wanted


def test_a_frozen_master_keeps_nobody_waiting(masters):
    _, second = masters.add_lab("lab", None, LEADER)
    assert find(masters) == second


def test_without_a_lab_the_local_masters_socket_is_named(masters):
    assert find(masters) == f"unix://{host.LOCAL_SOCKET}"


def test_the_masters_of_a_lab_know_each_other(masters):
    first, second, third = masters.add_lab("lab", LEADER, LEADER, LEADER)
    assert host.other_masters(second, masters.run) == [first, third]
    assert host.other_masters("unix:///elsewhere", masters.run) == []
    assert host.other_masters("tcp://10.0.0.1:7400", masters.run) == []
