"""The masters' questions, asked of a real registry, and of servers that misbehave."""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from support.image_registry import (
    MANIFEST,
    PASSWORD,
    USER,
    ImageRegistry,
    free_port,
    image_registry,
)

from essaim_master.images.answers import Credentials
from essaim_master.images.errors import (
    AccessDenied,
    ManifestUnknown,
    RegistryAway,
    RegistryError,
)
from essaim_master.images.reference import split_reference
from essaim_master.images.registry_client import RegistryClient
from essaim_shared.clock import SystemClock
from essaim_shared.spec import Platform

LIMIT_S = 10.0
NOBODY = Credentials()
ALICE = Credentials(username=USER, password=PASSWORD)


@pytest.fixture(scope="module")
def open_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageRegistry]:
    with image_registry(tmp_path_factory.mktemp("open") / "registry", True) as registry:
        yield registry


@pytest.fixture(scope="module")
def locked_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageRegistry]:
    with image_registry(tmp_path_factory.mktemp("locked") / "registry", False) as registry:
        yield registry


@pytest.fixture
def client(tmp_path: Path) -> RegistryClient:
    return RegistryClient(SystemClock(), certificates=tmp_path)


def test_a_tag_is_told_with_its_digest_and_platform(client, open_registry) -> None:
    digest = open_registry.push_image("team/web", "1")
    found = client.ask(split_reference(f"{open_registry.address}/team/web:1"), NOBODY, LIMIT_S)
    assert found.descriptor.digest == digest
    assert found.descriptor.media_type == MANIFEST
    assert found.descriptor.size > 0
    assert found.platforms == (Platform(architecture="amd64", os="linux"),)


def test_an_image_for_several_platforms_has_the_digest_of_its_list(client, open_registry) -> None:
    digest = open_registry.push_list("team/many", "2", ("amd64", "arm64"))
    found = client.ask(split_reference(f"{open_registry.address}/team/many:2"), NOBODY, LIMIT_S)
    assert found.descriptor.digest == digest
    assert [platform.architecture for platform in found.platforms] == ["amd64", "arm64"]


def test_a_digest_can_be_asked_for_itself(client, open_registry) -> None:
    digest = open_registry.push_image("team/web", "3")
    image = f"{open_registry.address}/team/web@{digest}"
    assert client.ask(split_reference(image), NOBODY, LIMIT_S).descriptor.digest == digest


@pytest.mark.parametrize("name", ["team/web:none", "team/nothing:1"])
def test_what_the_registry_does_not_have_is_said_so(client, open_registry, name) -> None:
    with pytest.raises(ManifestUnknown, match="manifest unknown"):
        client.ask(split_reference(f"{open_registry.address}/{name}"), NOBODY, LIMIT_S)


def test_credentials_open_a_locked_registry(client, locked_registry) -> None:
    digest = locked_registry.push_image("secret", "1")
    image = split_reference(f"{locked_registry.address}/secret:1")
    assert client.ask(image, ALICE, LIMIT_S).descriptor.digest == digest


@pytest.mark.parametrize("wrong", [NOBODY, Credentials(username=USER, password="guessed")])
def test_without_the_right_credentials_access_is_denied(client, locked_registry, wrong) -> None:
    locked_registry.push_image("secret", "1")
    with pytest.raises(AccessDenied) as refused:
        client.ask(split_reference(f"{locked_registry.address}/secret:1"), wrong, LIMIT_S)
    assert "guessed" not in str(refused.value)


def test_nobody_listening_is_told_apart(client) -> None:
    with pytest.raises(RegistryAway, match="Connection refused"):
        client.ask(split_reference(f"127.0.0.1:{free_port()}/web:1"), NOBODY, LIMIT_S)


@pytest.mark.parametrize("host", ["a..b.invalid", "x" * 70 + ".invalid"])
def test_a_host_name_that_cannot_be_one_is_an_error_of_ours(client, host) -> None:
    with pytest.raises(RegistryError, match=r"cannot be asked|does not answer"):
        client.ask(split_reference(f"{host}/web:1"), NOBODY, LIMIT_S)


# Servers that a test plays.

BODY = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [], "config": {}}).encode()
DIGEST = f"sha256:{hashlib.sha256(BODY).hexdigest()}"

Reply = tuple[int, dict[str, str], bytes]


class Played:
    """An HTTP server that answers by a function, and what it was asked."""

    def __init__(self, answer: Callable[["Played", str, dict[str, str], bytes], Reply]) -> None:
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        played = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                played.asked.append((self.path, headers, body))
                status, sent, content = answer(played, self.path, headers, body)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **sent}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, format: str, *arguments: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # so that closing waits for their sockets
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def play() -> Iterator[Callable[..., Played]]:
    with contextlib.ExitStack() as ends:

        def start(answer) -> Played:
            played = Played(answer)
            ends.callback(played.close)
            return played

        yield start


def with_tokens(played: Played, path: str, headers: dict[str, str], body: bytes) -> Reply:
    """A registry whose authorization server is itself (distribution, docs/spec/auth/token.md)."""
    if path.startswith("/token"):
        return 200, {}, b'{"token": "t0ken"}'
    if headers.get("authorization") != "Bearer t0ken":
        challenge = (
            f'Bearer realm="http://{played.address}/token?a=b",service="the registry",'
            'scope="repository:web:pull"'
        )
        return 401, {"WWW-Authenticate": challenge}, b""
    return 200, {"Content-Type": MANIFEST, "Docker-Content-Digest": DIGEST}, BODY


def test_a_token_is_fetched_where_the_registry_says(client, play) -> None:
    played = play(with_tokens)
    found = client.ask(split_reference(f"{played.address}/web:1"), ALICE, LIMIT_S)
    assert found.descriptor.digest == DIGEST
    path, headers, _ = next(asked for asked in played.asked if asked[0].startswith("/token"))
    assert parse_qs(urlsplit(path).query) == {
        "a": ["b"],
        "service": ["the registry"],
        "scope": ["repository:web:pull"],
    }
    assert headers["authorization"].startswith("Basic ")


def test_an_identity_token_is_exchanged_for_one(client, play) -> None:
    played = play(with_tokens)
    client.ask(
        split_reference(f"{played.address}/web:1"), Credentials(identitytoken="id3"), LIMIT_S
    )
    path, headers, body = next(asked for asked in played.asked if asked[0].startswith("/token"))
    assert path == "/token"
    assert "authorization" not in headers
    form = parse_qs(body.decode())
    assert form["grant_type"] == ["refresh_token"]
    assert form["refresh_token"] == ["id3"]


def test_a_redirect_to_another_host_takes_no_credentials_along(client, play) -> None:
    target = play(lambda *_: (200, {"Content-Type": MANIFEST}, BODY))

    def answer(played: Played, path: str, headers: dict[str, str], body: bytes) -> Reply:
        if "authorization" not in headers:
            return 401, {"WWW-Authenticate": 'Basic realm="r"'}, b""
        return 307, {"Location": f"http://{target.address}/elsewhere?x=1"}, b""

    played = play(answer)
    found = client.ask(split_reference(f"{played.address}/web:1"), ALICE, LIMIT_S)
    assert found.descriptor.digest == DIGEST
    assert [(path, "authorization" in headers) for path, headers, _ in target.asked] == [
        ("/elsewhere?x=1", False)
    ]


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        ((200, {"Content-Type": MANIFEST, "Docker-Content-Digest": "sha256:" + "0" * 64}, BODY),
         RegistryError, "does not have the digest"),
        ((200, {"Content-Type": "text/html"}, b"<html>"), RegistryError, "no JSON object"),
        ((200, {"Content-Type": "text/plain"}, b"{}"), RegistryError, "are not known"),
        ((200, {"Content-Type": MANIFEST}, b"[" * 100_000), RegistryError, "no JSON object"),
        ((200, {"Content-Type": MANIFEST}, b" " * (4 * 1024 * 1024 + 1)), RegistryError,
         "longer than"),
        ((200, {"Content-Type": MANIFEST, "Docker-Content-Digest": "x\ty"}, BODY), RegistryError,
         "is no digest"),
        ((429, {}, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}'),
         RegistryAway, "status 429: slow down"),
        ((502, {}, b"<html>bad"), RegistryAway, "status 502"),
        ((302, {"Location": "ftp://elsewhere/"}, b""), RegistryError, "something else"),
        ((302, {"Location": "/v2/again"}, b""), RegistryError, "status 302"),
        ((401, {"WWW-Authenticate": 'Bearer realm="ftp://x/"'}, b""), RegistryError,
         "no authorization server"),
        ((401, {"WWW-Authenticate": "Negotiate"}, b""), AccessDenied, "denied"),
        ((403, {}, b""), AccessDenied, "denied"),
        ((418, {}, b""), RegistryError, "status 418"),
    ],
)  # fmt: skip
def test_what_a_registry_may_do_wrong(client, play, reply, kind, words) -> None:
    played = play(lambda *_: reply)
    with pytest.raises(kind, match=words) as refused:
        client.ask(split_reference(f"{played.address}/web:1"), NOBODY, LIMIT_S)
    assert "\n" not in str(refused.value)


def test_an_answer_that_trickles_is_cut_at_the_limit(client, play) -> None:
    held = threading.Event()

    def answer(played: Played, path: str, headers: dict[str, str], body: bytes) -> Reply:
        held.wait(20)
        return 200, {"Content-Type": MANIFEST}, BODY

    played = play(answer)
    try:
        with pytest.raises(RegistryAway, match="timed out"):
            client.ask(split_reference(f"{played.address}/web:1"), NOBODY, 0.2)
    finally:
        held.set()
