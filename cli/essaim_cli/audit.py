"""`essaim audit`: who changed what."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from essaim_cli.client import Client, client_of
from essaim_cli.errors import ApiError, MasterUnreachable
from essaim_cli.pace import now_s, pause, utc_now
from essaim_cli.units import parse_duration

AWAY_S_MAX = 60.0
"""How long a follower asks one master after the other before it gives up."""
RETRY_S = 1.0


@click.command()
@click.option("--since", metavar="WHEN", help="A moment (2026-11-28T12:00:00Z), or how long ago.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("--who", default="", metavar="NAME", help="Only of this user (or `uid 0`).")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@click.pass_context
def audit(context: click.Context, since: str | None, follow: bool, who: str, output: str) -> None:
    """Show the audit log: every change of the cluster, who made it, and from where.

    It holds the last 10,000 changes. Keys of users (essaim kv) are data and not in it.
    """
    query = {"who": who} if who else {}
    if since is not None:
        query["since"] = f"{_moment(since).timestamp():.3f}"
    client = client_of(context)
    found = _following(client, query) if follow else client.lines("/essaim/audit", **query)
    for record in found:
        if "Who" in record:
            click.echo(json.dumps(record) if output == "json" else _text(record))


def _following(client: Client, query: dict[str, str]) -> Iterator[Any]:
    """Across masters that go: each goes on after the last revision that was shown."""
    revision, away_since_s = 0, now_s()
    while True:
        try:
            more = {"revision": str(revision)} if revision else {}
            for record in client.lines("/essaim/audit", follow="1", **query, **more):
                revision, away_since_s = max(revision, record["Revision"]), now_s()
                yield record
        except (MasterUnreachable, ApiError) as error:
            is_over = isinstance(error, ApiError) and error.status < 500
            if is_over or now_s() - away_since_s > AWAY_S_MAX:
                raise
        client.turn_to_next()
        pause(RETRY_S)


def _text(record: Any) -> str:
    source = f" from {record['From']}" if record["From"] else ""
    detail = f"({record['Detail']})" if record["Detail"] else ""
    what = " ".join(word for word in (record["Action"], record["Target"], detail) if word)
    return f"{record['Time'][:19]}  r{record['Revision']}  {record['Who']}{source}: {what}"


def _moment(since: str) -> datetime:
    """Raises UsageError."""
    try:
        return utc_now() - timedelta(microseconds=parse_duration(since) // 1000)
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(since)
    except ValueError as error:
        raise click.UsageError(
            f"--since {since}: write 2026-11-28T12:00:00Z, or how long ago: 10m, 24h"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
