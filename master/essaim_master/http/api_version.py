"""The versions of Docker's API that are spoken, and the version in front of a path."""

import re

import essaim_shared
from essaim_shared.errors import InvalidRequest

API_VERSION = "1.47"
API_VERSION_MIN = "1.24"

_VERSIONED = re.compile(r"/v(\d{1,4})\.(\d{1,4})(/.*)")


def server_version() -> str:
    return essaim_shared.__version__


def split_version(path: str) -> str:
    """The path without its `/v1.NN`.

    Raises InvalidRequest, in Docker's words, for a version that is not spoken.
    """
    match = _VERSIONED.fullmatch(path)
    if match is None:
        return path
    major, minor, rest = match.groups()
    asked = (int(major), int(minor))
    if asked > _parse(API_VERSION):
        raise InvalidRequest(
            f"client version {major}.{minor} is too new. "
            f"Maximum supported API version is {API_VERSION}"
        )
    if asked < _parse(API_VERSION_MIN):
        raise InvalidRequest(
            f"client version {major}.{minor} is too old. Minimum supported API version is "
            f"{API_VERSION_MIN}, please upgrade your client to a newer version"
        )
    return rest


def _parse(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)
