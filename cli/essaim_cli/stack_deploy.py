"""`essaim stack deploy` and `config`.

The masters are told the whole stack at once: they check all of it before anything is written, and
leave alone what is as it should be. So a deployment whose answer was lost is merely sent again.
"""

import os
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import click

from essaim_cli.client import Client, client_of
from essaim_cli.compose.conversion import NODE_NETWORKS, Stack, stack_of
from essaim_cli.compose.document import write_document
from essaim_cli.compose.errors import ComposeError
from essaim_cli.compose.files import load_files, read_payload
from essaim_cli.compose.loading import Compose, as_document
from essaim_cli.converge_stack import wait_all_converged
from essaim_cli.errors import ApiError, BrokenOff, CommandFailed
from essaim_cli.flag_kinds import DockerCommand
from essaim_cli.grammar.fields import comma_fields, present
from essaim_cli.listing import raise_failures
from essaim_cli.network_commands import network_path
from essaim_cli.registry_auth import registry_headers, registry_of
from essaim_cli.service_requests import show_warnings
from essaim_cli.stack_names import check_stack_name, stack_path
from essaim_cli.wait_options import seconds, wait_options

ATTEMPTS_MAX = 8
"""Of a deployment that lost masters get in the way of."""

_LINES = {
    "created": "Creating service {Name}",
    "updated": "Updating service {Name} (id: {Id})",
    "unchanged": "Keeping service {Name} (id: {Id})",
    "removed": "Removing service {Name}",
}

_PAYLOAD_LINES = {
    "created": "Creating {kind} {Name}",
    "updated": "Updating {kind} {Name} (id: {Id})",
}

_compose_files = click.option(
    "-c",
    "--compose-file",
    "compose_files",
    multiple=True,
    metavar="FILE",
    help='Compose file, or "-" for standard input; several are laid over each other.',
)


@click.command(cls=DockerCommand)
@_compose_files
@click.option("--prune", is_flag=True, help="Remove services that are in the files no more.")
@click.option(
    "--resolve-image",
    type=click.Choice(["always", "changed", "never"]),
    default="always",
    help="When tags are pinned to digests (default always).",
)
@click.option(
    "--with-registry-auth", is_flag=True, help="Send the registries' credentials to the nodes."
)
@wait_options
@click.argument("name", metavar="STACK")
@click.pass_context
def deploy(context: click.Context, /, name: str, **given: Any) -> None:
    """Make a stack, or change it to what the compose files say."""
    check_stack_name(name)
    try:
        compose = _loaded(given["compose_files"])
        stack = stack_of(name, compose, read_payload)
    except ComposeError as error:
        raise CommandFailed(str(error)) from error
    for warning in compose.warnings:
        click.echo(f"{warning}\n", err=True)
    client = client_of(context)
    check_external_networks(client, stack.external_networks)
    answer = _deployed(client, name, _body(stack, given), given["resolve_image"])
    show_warnings(answer)
    _show_done(answer)
    if not given["detach"]:
        names = {one["Id"]: one["Name"] for one in answer["Services"] if one["Action"] != "removed"}
        timeout_s = seconds(given["timeout"])
        raise_failures(wait_all_converged(client, name, names, timeout_s, given["quiet"]))


@click.command(cls=DockerCommand)
@_compose_files
@click.option("--skip-interpolation", is_flag=True, help="Leave variables as they are.")
def config(compose_files: tuple[str, ...], skip_interpolation: bool) -> None:
    """Show what compose files say together, with variables put in."""
    try:
        compose = _loaded(compose_files, is_interpolated=not skip_interpolation)
    except ComposeError as error:
        raise CommandFailed(str(error)) from error
    click.echo(write_document(as_document(compose)), nl=False)


def check_external_networks(client: Client, names: Sequence[str]) -> None:
    """Raises CommandFailed for a network that was to be there already."""
    for name in names:
        if name in NODE_NETWORKS:
            continue
        try:
            client.get(network_path(name), scope="swarm")
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            raise CommandFailed(
                f'network "{name}" is declared as external, but could not be found. '
                "You need to create it before the stack is deployed: essaim network create "
                f"{name}"
            ) from error


def _loaded(files: Sequence[str], *, is_interpolated: bool = True) -> Compose:
    """Raises ComposeError."""
    names = [name for written in files for name in _split(written)]
    return load_files(names, os.environ, is_interpolated=is_interpolated)


def _split(written: str) -> list[str]:
    """`-c a.yml,b.yml`, as Docker's client takes it."""
    try:
        return comma_fields(written)
    except ValueError as error:
        raise ComposeError("", f"invalid --compose-file {written!r}: {error}") from error


def _body(stack: Stack, given: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {"Networks": stack.networks, "Services": stack.services}
    body |= present({"Secrets": stack.secrets, "Configs": stack.configs})
    if given["prune"]:
        body["Prune"] = True
    if given["with_registry_auth"]:
        body["RegistryAuths"] = credentials_of(stack.services, os.environ)
    return body


def credentials_of(
    services: Sequence[dict[str, Any]], environment: Mapping[str, str]
) -> dict[str, str]:
    """By the services' names, as X-Registry-Auth; each registry's are looked up once."""
    found: dict[str, str] = {}
    by_service = {}
    for service in services:
        image = service["TaskTemplate"]["ContainerSpec"]["Image"]
        registry = registry_of(image)
        if registry not in found:
            found[registry] = registry_headers(image, environment)["X-Registry-Auth"]
        by_service[service["Name"]] = found[registry]
    return by_service


def _deployed(client: Client, name: str, body: dict[str, Any], resolve: str) -> Any:
    for attempts_left in reversed(range(ATTEMPTS_MAX)):
        try:
            return client.post(stack_path(name), body, resolveImage=resolve)
        except BrokenOff:
            if not attempts_left:
                raise
    raise AssertionError("the last attempt returns or raises")


def _show_done(answer: Any) -> None:
    for network in answer["Networks"]:
        if network["Created"]:
            click.echo(f"Creating network {network['Name']}")
    for kind in ("secret", "config"):
        for one in answer.get(f"{kind.title()}s") or ():
            if line := _PAYLOAD_LINES.get(one["Action"]):
                click.echo(line.format(kind=kind, **one))
    for service in answer["Services"]:
        click.echo(_LINES[service["Action"]].format(**service))
