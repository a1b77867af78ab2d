"""Networks of services: the names that people write, the ids that specifications hold.

A new service is sent with the names as they were written, and the masters look them up. An update
is made of the service's present specification, which holds ids: what is added and removed is
looked up first, as Docker's client does, so that either is the same network under any name.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from essaim_cli.client import Client
from essaim_cli.converge import get_patiently
from essaim_cli.network_commands import network_path

Json = dict[str, Any]


def with_network_ids(client: Client, given: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of an update with ids in the place of networks' names. Raises CommandFailed for a
    network that does not exist."""
    added = [
        [{**one, "Target": network_id(client, one["Target"])} for one in networks]
        for networks in given["network_add"]
    ]
    removed = [[network_id(client, name) for name in names] for names in given["network_rm"]]
    return {**given, "network_add": added, "network_rm": removed}


def with_ids_in(client: Client, spec: Json) -> Json:
    """A copy of a service's specification with ids in the place of networks' names."""
    template = spec["TaskTemplate"]
    networks = [
        {**one, "Target": network_id(client, one["Target"])}
        for one in template.get("Networks") or ()
    ]
    return {**spec, "TaskTemplate": {**template, "Networks": networks}} if networks else spec


def network_id(client: Client, name: str) -> str:
    return str(get_patiently(client, network_path(name), scope="swarm")["Id"])


def network_names(client: Client, services: Iterable[Json]) -> dict[str, str]:
    """Id → name, asked for only where one of the services has a network."""
    has_networks = any(
        item["Spec"]["TaskTemplate"].get("Networks")
        or (item.get("Endpoint") or {}).get("VirtualIPs")
        for item in services
    )
    if not has_networks:
        return {}
    return {one["Id"]: one["Name"] for one in client.get("/networks")}
