"""What of an engine decides how it is asked for a container: pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from essaim_agent.executor import ExecutorError
from essaim_shared.objects import EnginePlugin


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    api_version: tuple[int, int] = (1, 41)
    """That is spoken with it."""
    log_driver: str = "json-file"
    """For containers that name none (`log-driver` in its daemon.json)."""

    def require(self, version: tuple[int, int], option: str) -> None:
        """Raise ExecutorError for an option that came with a newer API: an older engine does not
        know the field and would drop it without a word."""
        if self.api_version < version:
            wanted, spoken = (f"{major}.{minor}" for major, minor in (version, self.api_version))
            raise ExecutorError(
                f"{option} needs Engine API {wanted} or newer; this node's engine speaks {spoken}"
            )


def facts_of(info: Mapping[str, Any], api_version: str) -> EngineFacts:
    """Of an engine's `/info`, and the API's version as `MAJOR.MINOR`. Raises ExecutorError."""
    major, _, minor = api_version.partition(".")
    if not (major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        raise ExecutorError(f"the engine speaks an API of no known version: {api_version[:40]!r}")
    return EngineFacts(
        api_version=(int(major), int(minor)), log_driver=str(info.get("LoggingDriver") or "")
    )


PLUGIN_TYPES = ("Log", "Network", "Volume")
"""In which services can ask for a driver; in the order in which Docker lists them."""


def plugins_of(info: Mapping[str, Any]) -> tuple[EnginePlugin, ...]:
    """The drivers that an engine has, built in and installed, by its `/info`."""
    known = info.get("Plugins") or {}
    return tuple(
        EnginePlugin(type=kind, name=str(name))
        for kind in PLUGIN_TYPES
        for name in sorted(known.get(kind) or ())
    )
