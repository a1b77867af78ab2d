"""The TLS contexts of one process, and who is at the other end of a connection.

TLS 1.3 only. Servers are asked for by their role (`certificates`): every connection to a master
says `server_hostname=MASTER_NAME`. A context is fixed once connections were made with it, so
`reload` makes new ones: clients take `client` for each connection, and listening sockets, which
keep the context they were given, are led to the new one by the handshake's server name callback.
Sessions are not resumed: each handshake looks at the certificate again.
"""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from essaim_shared.errors import ConfigError
from essaim_shared.trust.identity import AUTHORITIES_FILE, OWN_FILE
from essaim_shared.trust.roles import Role

MASTER_NAME: Final = Role.MASTER.value
"""In every master's certificate."""
HANDSHAKE_TIMEOUT_S: Final = 5.0


class PeerCertificate(msgspec.Struct, frozen=True):
    """What was proved at the handshake. The role is the text that stands in the certificate."""

    name: str
    role: str
    cluster_id: str
    serial: str
    not_before_ns: int = 0
    """`certificates.BACKDATED_S` before it was made, in whole seconds."""


class Tls:
    """Of one identity directory."""

    def __init__(self, directory: Path) -> None:
        """Raises ConfigError when the files are no certificate, no key, or no pair."""
        self._directory = directory
        self._client = self._made(ssl.PROTOCOL_TLS_CLIENT, ssl.CERT_REQUIRED)
        self._servers: dict[ssl.VerifyMode, ssl.SSLContext] = {}
        self._listening: dict[ssl.VerifyMode, ssl.SSLContext] = {}

    @property
    def client(self) -> ssl.SSLContext:
        """For one connection to a master; take it anew for the next."""
        return self._client

    def server(self, *, wants_certificate: bool) -> ssl.SSLContext:
        """For a listening socket. Without `wants_certificate` a client may come without one; a
        certificate that is shown is looked at in any case."""
        mode = ssl.CERT_REQUIRED if wants_certificate else ssl.CERT_OPTIONAL
        if mode not in self._listening:
            self._servers[mode] = self._made(ssl.PROTOCOL_TLS_SERVER, mode)
            listening = self._made(ssl.PROTOCOL_TLS_SERVER, mode)
            listening.sni_callback = self._leading_to_newest(mode)
            self._listening[mode] = listening
        return self._listening[mode]

    def reload(self) -> None:
        """Take what the files hold now. Raises ConfigError and keeps what it had."""
        client = self._made(ssl.PROTOCOL_TLS_CLIENT, ssl.CERT_REQUIRED)
        servers = {mode: self._made(ssl.PROTOCOL_TLS_SERVER, mode) for mode in self._servers}
        self._client, self._servers = client, servers

    def _leading_to_newest(self, mode: ssl.VerifyMode) -> Callable[..., None]:
        def lead(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            connection.context = self._servers[mode]

        return lead

    def _made(self, protocol: int, mode: ssl.VerifyMode) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0
        try:
            context.load_cert_chain(self._directory / OWN_FILE)
            context.load_verify_locations(self._directory / AUTHORITIES_FILE)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(
                f"{self._directory}: no usable certificate: {error}: join the cluster again"
            ) from error
        context.verify_mode = mode
        return context


def peer_certificate(connection: ssl.SSLObject | ssl.SSLSocket) -> PeerCertificate | None:
    """Of the other end, which showed it and was believed; None when it showed none."""
    shown: dict[str, Any] | None = connection.getpeercert()
    if not shown:
        return None
    fields = {key: value for relative in shown["subject"] for key, value in relative}
    return PeerCertificate(
        name=fields.get("commonName", ""),
        role=fields.get("organizationalUnitName", ""),
        cluster_id=fields.get("organizationName", ""),
        serial=str(shown["serialNumber"]).lower().lstrip("0"),
        not_before_ns=ssl.cert_time_to_seconds(shown["notBefore"]) * 1_000_000_000,
    )


def reason_in_words(error: ssl.SSLError) -> str:
    """Why a handshake failed, for people. The other side's verdict comes as an alert."""
    reason = (error.reason or "").upper()
    for sign, words in _REASONS:
        if sign in reason:
            return words
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be believed: {error.verify_message}"
    return f"no TLS connection: {error.reason or error}"


_REASONS: Final = (
    ("ALERT_CERTIFICATE_EXPIRED", "our certificate has expired"),
    ("ALERT_UNKNOWN_CA", "our certificate is of another cluster"),
    ("ALERT_BAD_CERTIFICATE", "our certificate is not accepted"),
    ("ALERT_CERTIFICATE_REQUIRED", "it wants a certificate, and we have none"),
    ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "the other side shows no certificate"),
    ("WRONG_VERSION_NUMBER", "the other side does not speak TLS"),
    ("HTTP_REQUEST", "the other side does not speak TLS"),
    ("UNSUPPORTED_PROTOCOL", "the other side speaks no TLS 1.3"),
    ("ALERT_PROTOCOL_VERSION", "the other side speaks no TLS 1.3"),
)
