"""Several compose files laid over each other, as Docker's client does. Pure.

(docker/cli, cli/compose/loader/merge.go.) Lists grow, ports are told apart by what they publish
and volumes by their target, mappings are merged key by key; a later value that is empty, zero or
false changes nothing, but for counts. What stands beside the services is
replaced whole.
"""

from collections.abc import Callable, Mapping
from typing import Any

Json = dict[str, Any]

_REPLACED = frozenset({"command", "entrypoint", "test"})
"""Lists that mean something only as a whole."""

_COUNTS = frozenset({"replicas", "parallelism", "retries", "max_attempts"})
"""Zero is something to say."""

_CHOSEN_KEYS = frozenset(
    {"environment", "labels", "options", "driver_opts", "sysctls", "extra_hosts"}
)
"""Mappings of the author's own keys: whatever a later file says of one holds."""


def merge_files(files: list[dict[str, Json]]) -> dict[str, Json]:
    merged = files[0]
    for file in files[1:]:
        merged = {
            "services": _merged_services(merged["services"], file["services"]),
            "networks": {**merged["networks"], **file["networks"]},
            **{
                section: {**merged[section], **file[section]}
                for section in ("volumes", "secrets", "configs")
            },
        }
    return merged


def _merged_services(before: Json, after: Json) -> Json:
    services = dict(before)
    for name, service in after.items():
        services[name] = _merged(before[name], service) if name in before else service
    return services


def _merged(before: Json, after: Json) -> Json:
    found = dict(before)
    for name, value in after.items():
        found[name] = _merged_value(name, before[name], value) if name in before else value
    return found


def _merged_value(name: str, before: Any, after: Any) -> Any:
    special = _SPECIAL.get(name)
    if special is not None and before is not None and after is not None:
        return special(before, after)
    if name in _COUNTS:
        return after
    if not after:
        return before
    if name in _CHOSEN_KEYS and isinstance(after, dict):
        return {**before, **after}
    if isinstance(after, dict) and isinstance(before, dict):
        return _merged(before, after)
    if isinstance(after, list) and isinstance(before, list) and name not in _REPLACED:
        return [*before, *after]
    return after


def _by_identity(identity: Callable[[Json], Any]) -> Callable[[list[Json], list[Json]], list[Json]]:
    """A later item takes the place of an earlier one of the same identity; in the identities'
    order."""

    def merge(before: list[Json], after: list[Json]) -> list[Json]:
        found = {identity(one): one for one in (*before, *after)}
        return [found[key] for key in sorted(found)]

    return merge


def _port_identity(port: Json) -> tuple[int, int, str]:
    """Docker looks at the published port alone, and loses one of `53:53/tcp` and `53:53/udp`."""
    published = port.get("published", 0)
    return published, 0 if published else port["target"], port.get("protocol", "tcp")


def _merged_logging(before: Json, after: Json) -> Json:
    """Options belong to their driver."""
    drivers = before.get("driver"), after.get("driver")
    if all(drivers) and drivers[0] != drivers[1]:
        return after
    options = {**before.get("options", {}), **after.get("options", {})}
    return {
        **({"driver": drivers[1] or drivers[0]} if any(drivers) else {}),
        **({"options": options} if options else {}),
    }


def _merged_networks(before: Json, after: Json) -> Json:
    found = dict(before)
    for name, attachment in after.items():
        if before.get(name) and attachment:
            kept = {key: value for key, value in before[name].items() if key != "aliases"}
            found[name] = {**kept, **attachment}
        else:
            found[name] = attachment or before.get(name)
    return found


def _replaced_by_key(before: Mapping[str, Any], after: Mapping[str, Any]) -> Json:
    return {**before, **after}


_SPECIAL: dict[str, Callable[[Any, Any], Any]] = {
    "ports": _by_identity(_port_identity),
    "volumes": _by_identity(lambda volume: volume["target"]),
    "secrets": _by_identity(lambda secret: secret["source"]),
    "configs": _by_identity(lambda config: config["source"]),
    "networks": _merged_networks,
    "logging": _merged_logging,
    "ulimits": _replaced_by_key,
}
