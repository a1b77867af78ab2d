"""`essaim net …`: is the network as it should be, and if not, what is wrong."""

import json
from typing import Any

import click

from essaim_cli.client import Client, client_of
from essaim_cli.converge import get_patiently
from essaim_cli.errors import CommandFailed, usage
from essaim_cli.net_view import chosen, doctor_text, stale_nodes, verdict
from essaim_cli.pace import now_s, pause
from essaim_cli.units import parse_duration

POLL_S = 0.5


@click.group()
def net() -> None:
    """Look into the network between containers."""


@net.command()
@click.argument("nodes", nargs=-1, metavar="[NODE...]")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), help="Same as --format.")
@click.option("--format", "template", type=click.Choice(["table", "json"]), help="table or json.")
@click.option(
    "--fresh", is_flag=True, help="Wait until every ready node has looked since this command began."
)
@click.option(
    "--timeout",
    metavar="DURATION",
    default="20s",
    show_default=True,
    help="Longest wait with --fresh.",
)
@click.pass_context
def doctor(
    context: click.Context,
    nodes: tuple[str, ...],
    output: str | None,
    template: str | None,
    fresh: bool,
    timeout: str,
) -> None:
    """Show what each node found in its tables, who answers whom through each network with which
    latency and MTU, and what is wrong. Fails unless all is well."""
    try:
        timeout_s = parse_duration(timeout) / 1e9
    except ValueError as error:
        raise usage(f"--timeout: {error}") from error
    client = client_of(context)
    found, stale = _ask(client, nodes, timeout_s if fresh else 0.0)
    click.echo(json.dumps(found) if "json" in (template, output) else doctor_text(found))
    if stale and fresh:
        raise CommandFailed(
            f"no fresh report within {timeout} from {', '.join(stale)}: see their agents' logs"
        )
    if reason := verdict(found):
        raise CommandFailed(reason)


def _ask(client: Client, names: tuple[str, ...], timeout_s: float) -> tuple[Any, list[str]]:
    """The answer, and the nodes of which it tells nothing that is new since this began."""
    began_s = now_s()
    while True:
        elapsed_s = now_s() - began_s
        left_s = max(timeout_s - elapsed_s, 0.0)
        found = chosen(get_patiently(client, "/essaim/network/doctor", left_s), names)
        stale = stale_nodes(found, elapsed_s)
        if not stale or elapsed_s >= timeout_s:
            return found, stale
        pause(min(POLL_S, timeout_s))
