"""Mutual TLS with a master: from a directory with certificate and key to a connection's context.

The directory is an identity of Essaim's (`authorities.pem`, `own.pem`), or one as Docker's clients
know it (DOCKER_CERT_PATH: `ca.pem`, `cert.pem`, `key.pem`).
"""

import ssl
from pathlib import Path

from essaim_cli.errors import CommandFailed

MASTER_NAME = "essaim-master"
"""Stands in every master's certificate: a master is asked for by what it is, wherever it is
(`essaim_shared.trust.tls` says the same, and would take longer to import)."""

_LAYOUTS = (
    ("authorities.pem", "own.pem", "own.pem"),
    ("ca.pem", "cert.pem", "key.pem"),
)
"""Whom to believe, own certificate, own key."""


def tls_context_of(directory: Path) -> ssl.SSLContext:
    """For connections to masters, as the holder of this certificate; with `server_hostname`
    MASTER_NAME. Raises CommandFailed for a directory that holds none."""
    for believed, certificate, key in _LAYOUTS:
        try:
            if not (directory / believed).exists():
                continue
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_verify_locations(directory / believed)
            context.load_cert_chain(directory / certificate, directory / key)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = getattr(error, "strerror", None) or error
            raise CommandFailed(
                f"{directory}: no usable certificate: {reason}: name the directory of an identity "
                "with --identity or ESSAIM_IDENTITY"
            ) from error
        return context
    raise CommandFailed(
        f"{directory}: there is no certificate: expected authorities.pem and own.pem, or ca.pem, "
        "cert.pem and key.pem; name another directory with --identity or ESSAIM_IDENTITY"
    )


def tls_context_believing(authorities: str) -> ssl.SSLContext:
    """As `tls_context_of`, for who shows no certificate of his own. Raises CommandFailed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=authorities)
    except (OSError, ValueError) as error:
        raise CommandFailed(
            f"the context's certificates of the cluster cannot be used: {error}: make it again"
        ) from error
    return context


def reason_of(error: ssl.SSLError) -> str:
    """For people. The import is not cheap, and rarely needed."""
    from essaim_shared.trust.tls import reason_in_words

    return reason_in_words(error)


def is_verdict(error: Exception) -> bool:
    """Whether one side does not believe the other: then nothing was asked, and nothing happened.
    A connection that ends is none."""
    ended = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
    return isinstance(error, ssl.SSLError) and not isinstance(error, ended)
