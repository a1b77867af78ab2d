"""The commands that change services, and wait for what they asked for."""

import os
from pathlib import Path
from typing import Any

import click

from essaim_cli.client import Client, client_of
from essaim_cli.converge import wait_converged
from essaim_cli.errors import ApiError, CommandFailed, usage
from essaim_cli.flag_kinds import CREATE, UPDATE, DockerCommand, flag_options
from essaim_cli.grammar.environment import variables_of_file
from essaim_cli.listing import (
    raise_failures,
)
from essaim_cli.registry_auth import registry_headers
from essaim_cli.service_flags.table import FLAGS
from essaim_cli.service_networks import with_network_ids
from essaim_cli.service_requests import (
    create_service,
    post_versioned,
    show_warnings,
    update_service,
)
from essaim_cli.service_spec import Spec, created_spec, set_scale, updated_spec
from essaim_cli.wait_options import seconds, wait_options

ROLLBACK_COMPANIONS = ("rollback", "detach", "quiet", "timeout")
"""What may stand beside `update --rollback`."""

REPLICA_DIGITS_MAX = 18
"""Fits 64 bits."""


@click.command(cls=DockerCommand, context_settings={"allow_interspersed_args": False})
@flag_options(FLAGS, CREATE)
@click.argument("image")
@click.argument("arguments", nargs=-1, metavar="[COMMAND] [ARG]...", type=click.UNPROCESSED)
@wait_options
@click.pass_context
def create(context: click.Context, /, image: str, arguments: tuple[str, ...], **given: Any) -> None:
    """Create a service. What follows IMAGE belongs to the container."""
    given["env_file_settings"] = _env_file_settings(given["env_file"])
    spec = created_spec(image, arguments, given, os.environ)
    headers = registry_headers(image, os.environ) if given["with_registry_auth"] else {}
    client = client_of(context)
    answer = create_service(client, spec, headers, **_resolving(given))
    show_warnings(answer)
    click.echo(answer["ID"])
    _wait(client, answer["ID"], given)


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="SERVICE=REPLICAS...")
@wait_options
@click.pass_context
def scale(context: click.Context, /, targets: tuple[str, ...], **given: Any) -> None:
    """Set the number of tasks of one or more services."""
    client = client_of(context)
    wanted = dict(_parse_target(target) for target in targets)
    done, failures = [], []
    for name, replicas in wanted.items():
        try:
            done.append((name, _scale_one(client, name, replicas)))
        except (ApiError, CommandFailed) as error:
            failures.append(f"{name}: {error.message}")
    for name, service_id in done:
        try:
            _wait(client, service_id, given)
        except CommandFailed as error:
            failures.append(f"{name}: {error.message}")
    raise_failures(failures)


@click.command(cls=DockerCommand)
@flag_options(FLAGS, UPDATE)
@click.argument("name", metavar="SERVICE")
@wait_options
@click.pass_context
def update(context: click.Context, /, name: str, **given: Any) -> None:
    """Change a service."""
    client = client_of(context)
    if given["rollback"]:
        if any(given[one] for one in given if one not in ROLLBACK_COMPANIONS):
            raise CommandFailed("other flags may not be combined with --rollback")
        service_id = _roll_back(client, name, None)
    else:
        service_id = _update(client, name, given)
    click.echo(name)
    _wait(client, service_id, given)


@click.command()
@click.argument("name", metavar="SERVICE")
@click.option(
    "--to",
    "revision",
    type=click.IntRange(min=1),
    metavar="N",
    help="Essaim: a revision of `service history` (default: what was before).",
)
@wait_options
@click.pass_context
def rollback(context: click.Context, /, name: str, revision: int | None, **given: Any) -> None:
    """Go back to what a service was before."""
    client = client_of(context)
    service_id = _roll_back(client, name, revision)
    click.echo(name)
    _wait(client, service_id, given)


@click.command()
@click.argument("name", metavar="SERVICE")
@wait_options
@click.pass_context
def promote(context: click.Context, /, name: str, **given: Any) -> None:
    """Let an update in steps go on to its next step."""
    client = client_of(context)
    service_id = post_versioned(client, name, lambda one: f"/essaim/services/{one}/promote", {})
    click.echo(name)
    _wait(client, service_id, given)


def _update(client: Client, name: str, given: dict[str, Any]) -> str:
    given = with_network_ids(client, given)

    def change(present: Spec, first_seen: Spec | None) -> Spec:
        return updated_spec(present, given, os.environ, first_seen)

    def headers_of(spec: Spec) -> dict[str, str]:
        return registry_headers(spec["TaskTemplate"]["ContainerSpec"]["Image"], os.environ)

    if given["with_registry_auth"]:
        return update_service(client, name, change, headers_of, **_resolving(given))
    return update_service(client, name, change, None, registryAuthFrom="spec", **_resolving(given))


def _scale_one(client: Client, name: str, replicas: int) -> str:
    def change(spec: Spec, _: Spec | None) -> Spec:
        set_scale(spec, replicas)
        return spec

    service_id = update_service(client, name, change)
    click.echo(f"{name} scaled to {replicas}")
    return service_id


def _roll_back(client: Client, name: str, revision: int | None) -> str:
    if revision is None:
        return post_versioned(
            client, name, lambda one: f"/services/{one}/update", None, rollback="previous"
        )
    return post_versioned(
        client, name, lambda one: f"/essaim/services/{one}/rollback", {}, to=str(revision)
    )


def _resolving(given: dict[str, Any]) -> dict[str, str]:
    """When the masters look the image's digest up: an image that is named again is meant anew."""
    if given["no_resolve_image"]:
        return {"resolveImage": "never"}
    return {"resolveImage": "always"} if given.get("image") else {}


def _wait(client: Client, service_id: str, given: dict[str, Any]) -> None:
    if not given["detach"]:
        wait_converged(client, service_id, seconds(given["timeout"]), given["quiet"])


def _env_file_settings(files: tuple[str, ...]) -> list[str]:
    settings: list[str] = []
    for file in files:
        try:
            settings += variables_of_file(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise usage(f"cannot read --env-file {file}: {error}") from error
    return settings


def _parse_target(target: str) -> tuple[str, int]:
    name, separator, count = target.rpartition("=")
    if not (separator and name):
        raise usage(f"invalid scale specifier {target!r}: write SERVICE=REPLICAS")
    if not (count.isascii() and count.isdigit() and len(count) <= REPLICA_DIGITS_MAX):
        raise usage(f"invalid replicas value {count!r} for {name}: it must be a whole number >= 0")
    return name, int(count)
