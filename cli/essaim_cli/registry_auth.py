"""The credentials that `--with-registry-auth` sends: those of `docker login`, for one registry.

Read from Docker's configuration (`$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`):
`auths`, or the helper program that `credHelpers` or `credsStore` names. They travel in the header
X-Registry-Auth as URL-safe base64 of JSON (api/types/registry).
"""

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from essaim_cli.errors import CommandFailed

HUB = "docker.io"
HUB_KEY = "https://index.docker.io/v1/"
HELPER_TIMEOUT_S = 30.0
TOKEN_USER = "<token>"
"""The user name under which helpers keep identity tokens."""


def registry_headers(image: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The header for the registry of an image. Raises CommandFailed for a broken configuration;
    a registry without credentials gets an empty object, as Docker's client sends."""
    registry = registry_of(image)
    key = HUB_KEY if registry == HUB else registry
    credentials = _credentials(_configuration(environment), key, environment)
    encoded = base64.urlsafe_b64encode(json.dumps(credentials).encode()).decode()
    return {"X-Registry-Auth": encoded}


def registry_of(image: str) -> str:
    """The first part of a reference is a registry if it looks like a host."""
    first, separator, _ = image.partition("/")
    is_host = separator and ("." in first or ":" in first or first == "localhost")
    return first if is_host else HUB


def _configuration(environment: Mapping[str, str]) -> dict[str, Any]:
    directory = environment.get("DOCKER_CONFIG") or Path.home() / ".docker"
    path = Path(directory) / "config.json"
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CommandFailed(f"cannot read the registry credentials in {path}: {error}") from error
    return found if isinstance(found, dict) else {}


def _credentials(
    configuration: dict[str, Any], key: str, environment: Mapping[str, str]
) -> dict[str, str]:
    helper = (configuration.get("credHelpers") or {}).get(key) or configuration.get("credsStore")
    if helper:
        return _from_helper(str(helper), key, environment)
    for name, entry in (configuration.get("auths") or {}).items():
        if name == key or _host_of(name) == key:
            return _decoded(name, entry)
    return {}


def _decoded(name: str, entry: dict[str, str]) -> dict[str, str]:
    if token := entry.get("identitytoken"):
        return {"identitytoken": token, "serveraddress": name}
    try:
        text = base64.b64decode(entry.get("auth", ""), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise CommandFailed(
            f"the credentials for {name} in Docker's configuration are damaged: docker login again"
        ) from error
    user, _, password = text.partition(":")
    return {"username": user, "password": password.rstrip("\0"), "serveraddress": name}


def _from_helper(helper: str, key: str, environment: Mapping[str, str]) -> dict[str, str]:
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=key,
            capture_output=True,
            text=True,
            env=environment,
            timeout=HELPER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(f"the credential helper {program} cannot be asked: {error}") from error
    if done.returncode != 0:
        # Helpers say on stdout that they keep nothing for a registry.
        if "credentials not found" in done.stdout:
            return {}
        reason = (done.stdout or done.stderr).strip()
        raise CommandFailed(f"the credential helper {program} failed: {reason}")
    try:
        found = json.loads(done.stdout)
        user, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise CommandFailed(f"the credential helper {program} answered no credentials") from error
    if user == TOKEN_USER:
        return {"identitytoken": secret, "serveraddress": key}
    return {"username": user, "password": secret, "serveraddress": key}


def _host_of(name: str) -> str:
    """`auths` may name a registry as `https://host/v1/`."""
    return name.partition("://")[2].partition("/")[0] if "://" in name else name.rstrip("/")
