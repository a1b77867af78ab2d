"""`essaim context …`: clusters by name."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from essaim_cli.contexts import Context, Contexts
from essaim_cli.errors import CommandFailed
from essaim_cli.formatting import table
from essaim_cli.host import parse_host

HEADINGS = ("NAME", "HOSTS", "AS")


@click.group()
def context() -> None:
    """Manage contexts: clusters by name, and as whom they are asked."""


@context.command()
@click.argument("name")
@click.option("--host", "hosts", required=True, metavar="URL[,URL]", help="Masters.")
@click.option("--token-file", metavar="FILE", help="With the token of a user; - reads stdin.")
@click.option(
    "--certificate",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="With the certificate of a user (essaim user add --certificate).",
)
@click.option(
    "--ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="The cluster's certificate (essaim cluster ca --certificates), for a token alone.",
)
def create(
    name: str, hosts: str, token_file: str | None, certificate: Path | None, ca: Path | None
) -> None:
    """Make a context, or replace it. A token is kept in its file, which only you can read."""
    urls = tuple(url.strip() for url in hosts.split(","))
    over_tcp = [url for url in urls if parse_host(url)[0] == "tcp"]
    if token_file and over_tcp and certificate is None and ca is None:
        raise click.UsageError(
            "--token-file: a token is sent over TLS only, so name whom to believe: --ca FILE "
            "(essaim cluster ca --certificates prints it) or --certificate DIR"
        )
    made = Context(
        name,
        urls,
        token=_token(token_file) if token_file else "",
        certificate=str(certificate.absolute()) if certificate else "",
        authorities=_pem(ca) if ca else "",
    )
    Contexts().write(made)
    click.echo(name)


@context.command()
@click.argument("name", default="")
@click.option("--none", "to_none", is_flag=True, help="Use no context any more.")
def use(name: str, to_none: bool) -> None:
    """Make a context the current one."""
    if bool(name) == to_none:
        raise click.UsageError("name a context, or give --none")
    Contexts().use(name)
    click.echo(name)


@context.command("ls")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def list_contexts(output: str) -> None:
    """List the contexts; a star marks the current one."""
    contexts = Contexts()
    current = contexts.current
    rows = [(name == current, contexts.read(name)) for name in contexts.names()]
    if output == "json":
        click.echo(json.dumps([{**_shown(one), "Current": is_current} for is_current, one in rows]))
        return
    cells = [
        (f"{one.name} *" if is_current else one.name, ",".join(one.hosts), _as_whom(one))
        for is_current, one in rows
    ]
    click.echo(table(HEADINGS, cells))


@context.command()
@click.argument("name", default="")
def show(name: str) -> None:
    """Show a context, without its token; without NAME the current one."""
    contexts = Contexts()
    if not (name or contexts.current):
        raise CommandFailed("no context is in use: see essaim context ls")
    click.echo(json.dumps(_shown(contexts.read(name or contexts.current)), indent=1))


@context.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def remove(names: tuple[str, ...]) -> None:
    """Remove contexts. Tokens stay valid: essaim user token rm ends one."""
    contexts = Contexts()
    for name in names:
        contexts.remove(name)
        click.echo(name)


def _shown(one: Context) -> dict[str, Any]:
    return {
        "Name": one.name,
        "Hosts": list(one.hosts),
        "Certificate": one.certificate,
        "HasToken": bool(one.token),
        "HasAuthorities": bool(one.authorities),
    }


def _as_whom(one: Context) -> str:
    if one.token:
        return "a token"
    return one.certificate or "nobody"


def _token(source: str) -> str:
    """Raises CommandFailed, which does not repeat it."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"cannot read the token from {source}: {error}") from error
    token = text.strip()
    if not (token.isascii() and token.startswith("esmusr_") and len(token.split()) == 1):
        raise CommandFailed(f"{source} holds no token of a user: it looks like esmusr_…_…")
    return token


def _pem(path: Path) -> str:
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"cannot read {path}: {error}") from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise CommandFailed(f"{path} holds no certificate (PEM)")
    return text
