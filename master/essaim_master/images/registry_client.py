"""Asks an image registry over HTTP: one manifest, with whatever authentication that takes.

It blocks, and so belongs into a thread (`resolver`). The standard library's client is enough for
one or two requests of a few kilobytes and costs no dependency; what it lacks, a limit on the
whole exchange, is kept here.

TLS is verified against the system's authorities and those in `CERTIFICATES/HOST/*.crt`, as
Docker's engine does. Only a registry on loopback, or one that the configuration calls insecure,
may show a certificate that nobody vouches for, or speak plain HTTP.

Credentials go to the registry itself, and to the authorization server that it names, if that one
is asked over TLS; never along with a redirect to another host.
"""

import base64
import contextlib
import http.client
import ipaddress
import ssl
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from essaim_master.images.answers import (
    MANIFEST_TYPES,
    Challenge,
    Credentials,
    Distribution,
    UnreadableAnswer,
    parse_challenge,
    parse_image_platform,
    parse_manifest,
    parse_refusal,
    parse_token,
)
from essaim_master.images.errors import (
    AccessDenied,
    ManifestUnknown,
    RegistryAway,
    RegistryError,
)
from essaim_master.images.reference import ImageReference
from essaim_shared import __version__
from essaim_shared.clock import Clock

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of a manifest, as the OCI distribution spec lets registries limit it; the rest is smaller."""
READ_BYTES: Final = 64 * 1024
REDIRECTS_MAX: Final = 3
CONNECTION_TIMEOUT_MIN_S: Final = 0.05
CERTIFICATES: Final = Path("/etc/docker/certs.d")
CLIENT_ID: Final = "essaim"
REDIRECTS: Final = (301, 302, 303, 307, 308)


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class RegistryClient:
    """May be used by several threads at once: it keeps nothing between two calls."""

    def __init__(
        self, clock: Clock, insecure: Sequence[str] = (), certificates: Path = CERTIFICATES
    ) -> None:
        """`insecure`: registries as they stand in image names, `HOST` or `HOST:PORT`."""
        self._clock = clock
        self._insecure = frozenset(insecure)
        self._certificates = certificates

    def ask(
        self, reference: ImageReference, credentials: Credentials, limit_s: float
    ) -> Distribution:
        """The image's manifest as the registry has it now, within `limit_s` but for name
        resolution, which the system does not let us limit. Raises RegistryError."""
        exchange = _Exchange(self, reference, credentials, self._clock.monotonic_s() + limit_s)
        try:
            return exchange.distribution()
        except UnreadableAnswer as error:
            raise RegistryError(f"{reference.domain}: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            # ssl's errors are OSErrors.
            words = str(error) or type(error).__name__
            raise RegistryAway(f"{reference.domain} does not answer: {words}") from error
        except ValueError as error:
            # A host name that cannot be one (`a..b`), or such a redirect.
            raise RegistryError(f"{reference.domain} cannot be asked: {error}") from error

    def may_be_insecure(self, host: str) -> bool:
        return host in self._insecure or is_loopback(host)

    def tls_context(self, host: str, verify: bool) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        for certificate in sorted((self._certificates / host).glob("*.crt")):
            context.load_verify_locations(certificate)
        return context

    def remaining_s(self, deadline_s: float) -> float:
        """Raises TimeoutError once nothing is left."""
        remaining_s = deadline_s - self._clock.monotonic_s()
        if remaining_s <= 0:
            raise TimeoutError("timed out")
        return max(remaining_s, CONNECTION_TIMEOUT_MIN_S)


class _Exchange:
    """The few requests about one image."""

    def __init__(
        self,
        client: RegistryClient,
        reference: ImageReference,
        credentials: Credentials,
        deadline_s: float,
    ) -> None:
        self._client = client
        self._reference = reference
        self._credentials = credentials
        self._deadline_s = deadline_s
        self._authorization = ""
        self._is_plain = False
        if credentials.registrytoken:
            self._authorization = f"Bearer {credentials.registrytoken}"

    def distribution(self) -> Distribution:
        reference = self._reference
        path = f"/v2/{reference.repository}/manifests/{reference.version}"
        answer = self._authorized(path, ", ".join(MANIFEST_TYPES))
        found = parse_manifest(
            answer.body,
            answer.headers.get("content-type", ""),
            answer.headers.get("docker-content-digest", "") or reference.digest,
        )
        if reference.digest and found.descriptor.digest != reference.digest:
            raise UnreadableAnswer("the registry sent another manifest than the one asked for")
        if found.config_digest and not found.platforms:
            blob = self._authorized(
                f"/v2/{reference.repository}/blobs/{found.config_digest}", "*/*"
            )
            platforms = parse_image_platform(blob.body)
            found = msgspec.structs.replace(found, platforms=platforms)
        return found

    def _authorized(self, path: str, accept: str) -> Answer:
        """A GET that succeeds. A registry that asks for authentication is asked a second time.
        Raises RegistryError."""
        host = self._reference.host
        answer = self._get(host, path, {"Accept": accept})
        if answer.status == 401:
            challenge = parse_challenge(answer.headers.get("www-authenticate", ""))
            authorization = self._answer_to(challenge)
            if authorization and authorization != self._authorization:
                self._authorization = authorization
                answer = self._get(host, path, {"Accept": accept})
        if answer.status == 200:
            return answer
        raise self._refusal(answer)

    def _refusal(self, answer: Answer) -> RegistryError:
        reference = self._reference
        words = parse_refusal(answer.body)
        reason = f": {words}" if words else ""
        if answer.status in (401, 403):
            return AccessDenied(
                f"access to {reference.repository} denied by {reference.domain}{reason}"
            )
        if answer.status == 404:
            return ManifestUnknown(
                f"{reference.domain} has no {reference.repository} {reference.version}{reason}"
            )
        if answer.status == 429 or answer.status >= 500:
            return RegistryAway(
                f"{reference.domain} cannot answer now: status {answer.status}{reason}"
            )
        return RegistryError(f"{reference.domain} answered with status {answer.status}{reason}")

    # Authentication.

    def _answer_to(self, challenge: Challenge | None) -> str:
        """The Authorization header that a challenge asks for; empty when we have none."""
        credentials = self._credentials
        if challenge is None:
            return ""
        if challenge.scheme == "basic":
            return _basic(credentials) if credentials.username else ""
        if challenge.scheme == "bearer" and not credentials.registrytoken:
            return f"Bearer {self._token(challenge.parameters)}"
        return ""

    def _token(self, parameters: Mapping[str, str]) -> str:
        """Ask the authorization server, also without credentials: public images need a token."""
        realm = urllib.parse.urlsplit(parameters.get("realm", ""))
        may_be_plain = self._is_plain or self._client.may_be_insecure(realm.netloc)
        if not realm.hostname or realm.scheme not in ("https", "http"):
            raise UnreadableAnswer("the registry names no authorization server")
        if realm.scheme == "http" and not may_be_plain:
            raise UnreadableAnswer("the registry wants credentials to be sent in the clear")
        scope = parameters.get("scope") or f"repository:{self._reference.repository}:pull"
        query = [*urllib.parse.parse_qsl(realm.query), ("scope", scope)]
        if "service" in parameters:
            query.append(("service", parameters["service"]))
        credentials = self._credentials
        if credentials.identitytoken:
            form = [
                *query,
                ("grant_type", "refresh_token"),
                ("refresh_token", credentials.identitytoken),
                ("client_id", CLIENT_ID),
            ]
            body = urllib.parse.urlencode(form).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._request(realm.scheme, realm.netloc, realm.path or "/", headers, body)
        else:
            headers = {"Authorization": _basic(credentials)} if credentials.username else {}
            path = f"{realm.path or '/'}?{urllib.parse.urlencode(query)}"
            answer = self._request(realm.scheme, realm.netloc, path, headers)
        if answer.status != 200:
            raise self._refusal(answer)
        return parse_token(answer.body)

    # HTTP.

    def _get(self, host: str, path: str, headers: Mapping[str, str]) -> Answer:
        """From the registry, following redirects as blobs have them."""
        sent = dict(headers)
        if self._authorization:
            sent["Authorization"] = self._authorization
        answer = self._ask_registry(host, path, sent)
        for _ in range(REDIRECTS_MAX):
            location = answer.headers.get("location", "")
            if answer.status not in REDIRECTS or not location:
                return answer
            scheme = "http" if self._is_plain else "https"
            target = urllib.parse.urlsplit(
                urllib.parse.urljoin(f"{scheme}://{host}{path}", location)
            )
            if target.scheme not in ("https", scheme) or not target.hostname:
                raise UnreadableAnswer("the registry redirects from TLS to something else")
            if target.netloc != host:
                sent.pop("Authorization", None)
            host = target.netloc
            path = urllib.parse.urlunsplit(("", "", target.path or "/", target.query, ""))
            answer = self._request(target.scheme, host, path, sent)
        return answer

    def _ask_registry(self, host: str, path: str, headers: Mapping[str, str]) -> Answer:
        if self._is_plain:
            return self._request("http", host, path, headers)
        if not self._client.may_be_insecure(host):
            return self._request("https", host, path, headers)
        try:
            return self._request("https", host, path, headers)
        except (ssl.SSLError, ConnectionResetError, ConnectionRefusedError):
            # It does not speak TLS, or not at the port for it.
            self._is_plain = True
            return self._request("http", host, path, headers)

    def _request(
        self,
        scheme: str,
        host: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> Answer:
        timeout_s = self._client.remaining_s(self._deadline_s)
        connection: http.client.HTTPConnection
        if scheme == "https":
            verify = not self._client.may_be_insecure(host)
            context = self._client.tls_context(host, verify)
            connection = http.client.HTTPSConnection(host, timeout=timeout_s, context=context)
        else:
            connection = http.client.HTTPConnection(host, timeout=timeout_s)
        with contextlib.closing(connection):
            sent = {"User-Agent": f"Essaim/{__version__}", **headers}
            connection.request("GET" if body is None else "POST", path, body, sent)
            response = connection.getresponse()
            # It keeps the socket to itself when the registry closes after the answer.
            with contextlib.closing(response):
                received = self._received(response)
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, received)

    def _received(self, response: http.client.HTTPResponse) -> bytes:
        received = bytearray()
        while part := response.read1(READ_BYTES):
            received += part
            if len(received) > ANSWER_BYTES_MAX:
                raise UnreadableAnswer(f"its answer is longer than {ANSWER_BYTES_MAX} bytes")
            self._client.remaining_s(self._deadline_s)
        return bytes(received)


def is_loopback(host: str) -> bool:
    """Whether `HOST[:PORT]` is this machine by its name or number."""
    name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _basic(credentials: Credentials) -> str:
    """RFC 7617."""
    pair = f"{credentials.username}:{credentials.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()
