"""`essaim user …`: who may ask the masters, as what, and with which proofs."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from essaim_cli.client import Client, client_of
from essaim_cli.docker_certificate import add_docker_names
from essaim_cli.errors import CommandFailed
from essaim_cli.formatting import table
from essaim_cli.units import parse_duration

HEADINGS = ("NAME", "ROLE", "STACK", "TOKENS", "CREATED")
TOKEN_HEADINGS = ("ID", "CREATED", "EXPIRES")
S_NS = 1_000_000_000
DAY_S = 86_400
KEY_MODE = 0o600

_DAYS = re.compile(r"(\d+)d")


@click.group()
def user() -> None:
    """Manage users: roles, tokens and certificates."""


@user.command()
@click.argument("name")
@click.option(
    "--role",
    required=True,
    type=click.Choice(["admin", "deployer", "viewer"]),
    help="A viewer reads, a deployer also deploys, an admin does everything.",
)
@click.option("--stack", default="", metavar="STACK", help="The only one that he sees and changes.")
@click.option("--expires", metavar="DURATION", help="Of the token: 12h, 30d; without: never.")
@click.option(
    "--certificate",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write a certificate there instead of printing a token.",
)
@click.pass_context
def add(
    context: click.Context,
    name: str,
    role: str,
    stack: str,
    expires: str | None,
    certificate: Path | None,
) -> None:
    """Add a user and print his token, once.

    A directory of --certificate is good for essaim context create --certificate, for --identity,
    and as DOCKER_CERT_PATH.
    """
    if certificate is not None and expires is not None:
        raise click.UsageError("--expires is for a token: certificates hold for their own time")
    valid_s = _seconds(expires)
    if certificate is not None:
        _check_is_for(name, certificate)
    client = client_of(context)
    client.post("/essaim/users", {"Name": name, "Role": role, "Stack": stack})
    try:
        _prove(client, name, valid_s, certificate)
    except CommandFailed as error:
        what = "certificate" if certificate else "token"
        raise CommandFailed(
            f"user {name} is added, but has no {what} yet: {error.message}; next: "
            f"essaim user {what} {name}{' DIR' if certificate else ''}"
        ) from error


@user.command("ls")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@click.option("-q", "--quiet", is_flag=True, help="Only names.")
@click.pass_context
def list_users(context: click.Context, output: str, quiet: bool) -> None:
    """List the users."""
    found = client_of(context).get("/essaim/users")
    if output == "json":
        click.echo(json.dumps(found))
    elif quiet:
        for one in found:
            click.echo(one["Name"])
    else:
        rows = [
            (
                one["Name"],
                one["Role"],
                one["Stack"] or "(all)",
                str(len(one["Tokens"])),
                one["CreatedAt"][:19],
            )
            for one in found
        ]
        click.echo(table(HEADINGS, rows))


@user.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.pass_context
def remove(context: click.Context, names: tuple[str, ...]) -> None:
    """Remove users: their tokens and certificates are worth nothing from then on."""
    client = client_of(context)
    for name in names:
        client.delete(_path(name))
        click.echo(name)


@user.command()
@click.argument("name")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.pass_context
def certificate(context: click.Context, name: str, directory: Path) -> None:
    """Write another certificate of a user, with a new key, into a directory."""
    _check_is_for(name, directory)
    _write_certificate(client_of(context), name, directory)
    click.echo(directory)


@user.command()
@click.argument("name")
@click.pass_context
def revoke(context: click.Context, name: str) -> None:
    """End all certificates of a user that were made so far; his tokens stay."""
    client_of(context).delete(f"{_path(name)}/certificate")
    click.echo(name)


class _TokenGroup(click.Group):
    """`token NAME` makes one; `token ls` and `token rm` are commands."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            args = [_make_token.name or "", *args]
        return super().resolve_command(ctx, args)


@user.group(cls=_TokenGroup, subcommand_metavar="NAME | ls NAME | rm NAME ID")
def token() -> None:
    """Make another token of a user, and print it, once; list or end his tokens."""


@token.command("create", hidden=True)
@click.argument("name")
@click.option("--expires", metavar="DURATION", help="12h, 30d; without: never.")
@click.pass_context
def _make_token(context: click.Context, name: str, expires: str | None) -> None:
    """Make another token of a user, and print it, once."""
    _prove(client_of(context), name, _seconds(expires), None)


@token.command("ls")
@click.argument("name")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@click.pass_context
def list_tokens(context: click.Context, name: str, output: str) -> None:
    """List the tokens of a user, without their secrets."""
    found = client_of(context).get(f"{_path(name)}/tokens")
    if output == "json":
        click.echo(json.dumps(found))
    else:
        rows = [
            (one["ID"], one["CreatedAt"][:19], (one["ExpiresAt"] or "never")[:19]) for one in found
        ]
        click.echo(table(TOKEN_HEADINGS, rows))


@token.command("rm")
@click.argument("name")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.pass_context
def remove_tokens(context: click.Context, name: str, ids: tuple[str, ...]) -> None:
    """End tokens of a user."""
    client = client_of(context)
    for token_id in ids:
        client.delete(f"{_path(name)}/tokens/{quote(token_id, safe='')}")
        click.echo(token_id)


def _prove(client: Client, name: str, valid_s: int, directory: Path | None) -> None:
    if directory is not None:
        _write_certificate(client, name, directory)
        click.echo(directory)
        return
    made = client.post(f"{_path(name)}/tokens", {"ValidSeconds": valid_s})
    click.echo(made["Token"])


def _check_is_for(name: str, directory: Path) -> None:
    """A directory of an identity is closed to everybody else, and its files are replaced: it must
    be a new one, or hold a certificate of this user. Raises CommandFailed."""
    from essaim_shared.errors import EssaimError
    from essaim_shared.trust.identity import has_identity, read_identity
    from essaim_shared.trust.roles import Role

    try:
        if not directory.exists() or not any(directory.iterdir()):
            return
        about = read_identity(directory).about if has_identity(directory) else None
    except (OSError, EssaimError) as error:
        raise CommandFailed(f"{directory}: {getattr(error, 'strerror', None) or error}") from error
    if about is None or (about.role, about.name) != (Role.USER, name):
        raise CommandFailed(
            f"{directory} holds something else than a certificate of {name}: name a new directory"
        )


def _write_certificate(client: Client, name: str, directory: Path) -> None:
    """The key is made here and goes nowhere else."""
    from essaim_shared.errors import EssaimError
    from essaim_shared.trust.certificates import new_request
    from essaim_shared.trust.identity import About, Identity, write_identity
    from essaim_shared.trust.roles import Role

    asked = new_request(name)
    issued: dict[str, Any] = client.post(
        f"{_path(name)}/certificate", {"Request": asked.request_pem.decode()}
    )
    own, believed = issued["Certificate"].encode(), issued["Authorities"].encode()
    about = About(issued["ClusterID"], name, Role.USER, tuple(issued["Masters"]))
    try:
        write_identity(directory, Identity(about, believed, asked.key_pem + own))
        add_docker_names(directory)
    except (OSError, EssaimError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CommandFailed(f"cannot write {directory}: {reason}") from error


def _path(name: str) -> str:
    return f"/essaim/users/{quote(name, safe='')}"


def _seconds(expires: str | None) -> int:
    """0: never. Raises UsageError."""
    if expires is None:
        return 0
    days = _DAYS.fullmatch(expires)
    try:
        seconds = int(days[1]) * DAY_S if days else parse_duration(expires) // S_NS
    except ValueError as error:
        raise click.UsageError(f"--expires: {error}, or 30d") from error
    if seconds < 1:
        raise click.UsageError(f"--expires {expires}: at least a second")
    return seconds
