"""A real image registry (Debian's docker-registry) on loopback, and images pushed to it by hand."""

import base64
import contextlib
import hashlib
import http.client
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

USER, PASSWORD = "alice", "open sesame"
HTPASSWD = "alice:$2y$05$6dm2X2NqMXFm/JUVE47m1OCXjh7yEtwZwIg/kK4ok.VdBRZbx1eV2\n"
"""Of htpasswd(1): the registry knows bcrypt only."""

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

ATTEMPTS_MAX = 300


class ImageRegistry:
    """`namespace`: path of a network namespace whose loopback it listens on."""

    def __init__(
        self,
        directory: Path,
        port: int,
        is_open: bool,
        namespace: str = "",
        images: Path | None = None,
    ) -> None:
        """`images`: where they are kept, if several registries are to share them."""
        self.address = f"127.0.0.1:{port}"
        self._headers = {}
        config = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(images or directory / "images")}},
            "http": {"addr": self.address},
        }
        if not is_open:
            (directory / "htpasswd").write_text(HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
            pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            self._headers["Authorization"] = f"Basic {pair}"
        # JSON is YAML too.
        (directory / "config.yml").write_text(json.dumps(config))
        self.log = directory / "log"
        enter = ["nsenter", f"--net={namespace}"] if namespace else []
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*enter, "docker-registry", "serve", str(directory / "config.yml")],
                stdout=log,
                stderr=log,
            )

    def wait_until_it_listens(self) -> None:
        """Only where the test shares its loopback."""
        for _ in range(ATTEMPTS_MAX):
            assert self._process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError):
                assert self.request("GET", "/v2/")[0] == 200
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.02)
        raise AssertionError(self.log.read_text())

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(20)

    # A client of a few lines, so that what is tested does not test itself.

    def request(
        self, method: str, path: str, body: bytes = b"", content_type: str = ""
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=10)
        with contextlib.closing(connection):
            headers = {**self._headers, "Content-Type": content_type} if body else self._headers
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def push_blob(self, repository: str, content: bytes) -> str:
        status, headers, _ = self.request("POST", f"/v2/{repository}/blobs/uploads/")
        assert status == 202
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        location = headers["Location"].removeprefix(f"http://{self.address}")
        status, _, answer = self.request(
            "PUT", f"{location}&digest={digest}", content, "application/octet-stream"
        )
        assert status == 201, answer
        return digest

    def push_manifest(
        self, repository: str, name: str, manifest: dict[str, object], media_type: str
    ) -> str:
        body = json.dumps({"schemaVersion": 2, "mediaType": media_type, **manifest}).encode()
        status, headers, answer = self.request(
            "PUT", f"/v2/{repository}/manifests/{name}", body, media_type
        )
        assert status == 201, answer
        return str(headers["Docker-Content-Digest"])

    def push_image(self, repository: str, tag: str, architecture: str = "amd64") -> str:
        """An image of one empty layer; each tag's differs. Its digest."""
        config = json.dumps(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Labels": {"tag": tag}},
                "rootfs": {"type": "layers", "diff_ids": []},
            }
        ).encode()
        entry = {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": len(config),
            "digest": self.push_blob(repository, config),
        }
        return self.push_manifest(repository, tag, {"config": entry, "layers": []}, MANIFEST)

    def push_list(self, repository: str, tag: str, architectures: tuple[str, ...]) -> str:
        """An image for several platforms. Its digest."""
        entries = []
        for architecture in architectures:
            digest = self.push_image(repository, f"{tag}-{architecture}", architecture)
            _, headers, _ = self.request("GET", f"/v2/{repository}/manifests/{tag}-{architecture}")
            entries.append(
                {
                    "mediaType": MANIFEST,
                    "digest": digest,
                    "size": int(headers["Content-Length"]),
                    "platform": {"architecture": architecture, "os": "linux"},
                }
            )
        return self.push_manifest(repository, tag, {"manifests": entries}, MANIFEST_LIST)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def image_registry(directory: Path, is_open: bool) -> Iterator[ImageRegistry]:
    directory.mkdir()
    registry = ImageRegistry(directory, free_port(), is_open)
    try:
        registry.wait_until_it_listens()
        yield registry
    finally:
        registry.end()


def auth_header(username: str = USER, password: str = PASSWORD) -> str:
    """X-Registry-Auth, as docker's clients send it."""
    config = json.dumps({"username": username, "password": password})
    return base64.urlsafe_b64encode(config.encode()).decode()
