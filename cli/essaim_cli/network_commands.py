"""`essaim network create|inspect|ls|rm`, with the flags and texts of `docker network`.

What a cluster cannot do (`--attachable`, `--ipv6`, other drivers, …) is refused by the masters,
with the reason: the same for every client.
"""

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import click

from essaim_cli.client import Client, client_of
from essaim_cli.converge import get_patiently
from essaim_cli.errors import ApiError, BrokenOff, CommandFailed
from essaim_cli.flag_kinds import CREATE, DockerCommand, Switch, Value, flag_options
from essaim_cli.formatting import natural_key
from essaim_cli.grammar.fields import key_value, present
from essaim_cli.grammar.network_addresses import (
    address_configuration,
    parse_addresses,
    parse_named_address,
    parse_subnets,
)
from essaim_cli.listing import (
    each,
    list_options,
    parse_filters,
    raise_failures,
    show_list,
    show_objects,
)
from essaim_cli.network_view import NETWORK_COLUMNS, network_row

Json = dict[str, Any]

ATTEMPTS_MAX = 8
"""Of a create that lost masters get in the way of."""
DRIVER_DEFAULT = "overlay"

FLAGS = (
    Value(name="driver", short="d", help=f"Driver of the network (default {DRIVER_DEFAULT})."),
    Value(
        name="opt",
        short="o",
        parse=key_value,
        metavar="KEY=VALUE",
        help="Option of the driver.",
        is_repeated=True,
    ),
    Value(
        name="label", parse=key_value, metavar="KEY=VALUE", help="Network label.", is_repeated=True
    ),
    Value(
        name="subnet",
        parse=parse_subnets,
        metavar="CIDR",
        help="Addresses of the network (default: chosen from the cluster's pool).",
        is_repeated=True,
    ),
    Value(
        name="ip-range",
        parse=parse_subnets,
        metavar="CIDR",
        help="Part of the subnet from which tasks get their addresses.",
        is_repeated=True,
    ),
    Value(
        name="gateway",
        parse=parse_addresses,
        metavar="ADDRESS",
        help="Refused: each node has a gateway of its own.",
        is_repeated=True,
    ),
    Value(
        name="aux-address",
        parse=parse_named_address,
        metavar="NAME=ADDRESS",
        help="Refused: use --ip-range.",
        is_repeated=True,
    ),
    Value(name="ipam-driver", help="Driver that manages addresses (default default)."),
    Value(
        name="ipam-opt",
        parse=key_value,
        metavar="KEY=VALUE",
        help="Option of that driver.",
        is_repeated=True,
    ),
    Value(name="scope", help="Scope of the network: swarm."),
    Value(name="config-from", help="Refused."),
    Switch(name="internal", help="No way from the network to the outside."),
    Switch(name="attachable", help="Refused: containers outside of services cannot join."),
    Switch(name="ingress", help="Refused: ports are published without such a network."),
    Switch(name="ipv4", help="Addresses of IPv4 (default)."),
    Switch(name="ipv6", help="Refused: networks have IPv4 addresses only."),
    Switch(name="config-only", help="Refused."),
)


@click.command(cls=DockerCommand)
@flag_options(FLAGS, CREATE)
@click.argument("name", metavar="NETWORK")
@click.pass_context
def create(context: click.Context, /, name: str, **given: Any) -> None:
    """Create a network."""
    try:
        body = created_network(name, given)
    except ValueError as error:
        raise CommandFailed(str(error)) from error
    answer = create_network(client_of(context), body)
    if warning := answer.get("Warning"):
        click.echo(f"Warning: {warning}", err=True)
    click.echo(answer["Id"])


@click.command("ls")
@list_options
@click.option("--no-trunc", is_flag=True, help="Do not cut IDs.")
@click.pass_context
def list_networks(context: click.Context, /, **options: Any) -> None:
    """List networks."""
    found = client_of(context).get("/networks", filters=parse_filters(options["filters"]))
    rows = [network_row(item, options["no_trunc"]) for item in found]
    rows.sort(key=lambda row: natural_key(row["Name"]))
    show_list(rows, NETWORK_COLUMNS, options)


@click.command()
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK...")
@click.option("-f", "--format", "template", help="A Go template over each object.")
@click.option("-v", "--verbose", is_flag=True, help="With the services and tasks on them.")
@click.pass_context
def inspect(
    context: click.Context, networks: tuple[str, ...], template: str | None, verbose: bool
) -> None:
    """Show networks in full."""
    client = client_of(context)
    query: dict[str, Any] = {"verbose": "true"} if verbose else {}
    found, failures = each(networks, lambda name: client.get(network_path(name), **query))
    show_objects(found, template, None)
    raise_failures(failures)


@click.command("rm")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK...")
@click.option("-f", "--force", is_flag=True, help="Not an error if a network does not exist.")
@click.pass_context
def remove(context: click.Context, networks: tuple[str, ...], force: bool) -> None:
    """Remove one or more networks."""
    client = client_of(context)

    def remove_one(name: str) -> None:
        try:
            client.delete(network_path(name))
        except ApiError as error:
            if not (force and error.status == HTTPStatus.NOT_FOUND):
                raise
            return
        click.echo(name)

    _, failures = each(networks, remove_one)
    raise_failures(failures)


def network_path(name: str) -> str:
    return f"/networks/{quote(name, safe='')}"


def created_network(name: str, given: Json) -> Json:
    """The body of POST /networks/create: what was asked for, and nothing else. Raises ValueError
    where addresses do not fit together."""
    addresses = address_configuration(
        _flat(given["subnet"]),
        _flat(given["ip_range"]),
        _flat(given["gateway"]),
        dict(given["aux_address"]),
    )
    ipam: Json = present({"Config": addresses, "Options": dict(given["ipam_opt"])})
    if ipam or given["ipam_driver"]:
        ipam["Driver"] = given["ipam_driver"] or "default"
    body: Json = {"Name": name, "Driver": given["driver"] or DRIVER_DEFAULT}
    body |= present(
        {
            "Scope": given["scope"],
            "Internal": given["internal"],
            "Attachable": given["attachable"],
            "Ingress": given["ingress"],
            "EnableIPv6": given["ipv6"],
            "ConfigOnly": given["config_only"],
            "ConfigFrom": {"Network": given["config_from"]} if given["config_from"] else None,
            "IPAM": ipam,
            "Options": dict(given["opt"]),
            "Labels": dict(given["label"]),
        }
    )
    if given["ipv4"] is False:
        body["EnableIPv4"] = False
    return body


def create_network(client: Client, body: Json) -> Json:
    """The masters' answer, with the network's Id. A network is known by its name: one that was
    made though the answer was lost is found again."""
    was_broken_off = False
    for attempts_left in reversed(range(ATTEMPTS_MAX)):
        try:
            answer: Json = client.post("/networks/create", body)
        except BrokenOff:
            if not attempts_left:
                raise
            was_broken_off = True
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT or not was_broken_off:
                raise
            return _found_created(client, body, error)
        else:
            return answer
    raise AssertionError("the last attempt returns or raises")


def _found_created(client: Client, body: Json, conflict: ApiError) -> Json:
    found = get_patiently(client, network_path(body["Name"]))
    wanted = {one["Subnet"] for one in (body.get("IPAM") or {}).get("Config", ())}
    there = {one.get("Subnet") for one in (found.get("IPAM") or {}).get("Config") or ()}
    is_same = (
        found["Name"] == body["Name"]
        and found.get("Driver") == body["Driver"]
        and bool(found.get("Internal")) == bool(body.get("Internal"))
        and (found.get("Labels") or {}) == body.get("Labels", {})
        and wanted <= there
    )
    if not is_same:
        raise conflict
    return {"Id": found["Id"]}


def _flat(lists: Any) -> list[Any]:
    return [item for one in lists for item in one]
