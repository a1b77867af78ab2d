"""`essaim raft …`: what the masters know of their consensus, running or stopped."""

import json
from typing import Any

import click

from essaim_cli.client import client_of
from essaim_cli.errors import CommandFailed
from essaim_cli.formatting import table
from essaim_cli.master_tools import run_tool
from essaim_cli.units import human_size

STATUS_HEADINGS = (
    *("ID", "ROLE", "TERM", "COMMIT", "APPLIED", "LAST", "MATCH", "SNAPSHOT", "LOG", "VERSION"),
    "STATE HASH",
)
HASH_CHARS = 8
"""Of a state's hash as shown; -o json has all of it."""
DUMP_PAGE_KEYS = 500

data_dir_option = click.option(
    "--data-dir", metavar="DIR", help="Read the files of a stopped master instead of asking one."
)


@click.group()
def raft() -> None:
    """Look into the consensus of the masters."""


@raft.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@click.pass_context
def status(context: click.Context, output: str) -> None:
    """Show every master: role, term, log, snapshot, hash of its state. Fails if states differ."""
    masters = client_of(context).get("/essaim/cluster/status")
    if output == "json":
        click.echo(json.dumps(masters))
    else:
        progress = _progress_of(masters)
        click.echo(table(STATUS_HEADINGS, [_status_row(one, progress) for one in masters]))
        for one in masters:
            for alarm in (one["Raft"] or {}).get("Alarms", ()):
                click.echo(f"{one['ID']}: {alarm}", err=True)
    difference = _difference_of_states(masters)
    if difference:
        raise CommandFailed(difference)


@raft.command()
@click.option("--from", "first", type=click.IntRange(min=1), metavar="N", help="First index.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@data_dir_option
@click.pass_context
def log(
    context: click.Context, first: int | None, limit: int, output: str, data_dir: str | None
) -> None:
    """Show entries of a master's log, the last ones unless --from says otherwise."""
    if data_dir is not None:
        start = [] if first is None else [f"--from={first}"]
        run_tool(["log", f"--data-dir={data_dir}", *start, f"--limit={limit}", f"-o={output}"])
    start_query = "" if first is None else f"&from={first}"
    found = client_of(context).get(f"/essaim/raft/log?limit={limit}{start_query}")
    if output == "json":
        click.echo(json.dumps(found))
        return
    rows = [
        (str(one["Index"]), str(one["Term"]), one["Kind"], str(one["Bytes"]), one["Summary"])
        for one in found["Entries"]
    ]
    click.echo(table(("INDEX", "TERM", "KIND", "BYTES", "WHAT"), rows))


@raft.command()
@data_dir_option
@click.pass_context
def dump(context: click.Context, data_dir: str | None) -> None:
    """Show every key of the state, an object of JSON on each line."""
    if data_dir is not None:
        run_tool(["dump", f"--data-dir={data_dir}"])
    client, after = client_of(context), ""
    while True:
        page = client.get("/essaim/raft/dump", after=after, limit=str(DUMP_PAGE_KEYS))
        for item in page["Items"]:
            click.echo(json.dumps(item))
        after = page["Next"]
        if not after:
            return


def _progress_of(masters: Any) -> dict[str, Any]:
    """How far each master's log is, as the leader knows."""
    for one in masters:
        view = one["Raft"] or {}
        if view.get("Role") == "leader" and view.get("Progress"):
            return dict(view["Progress"])
    return {}


def _status_row(one: Any, progress: dict[str, Any]) -> tuple[str, ...]:
    view = one["Raft"]
    match = str(progress[one["ID"]]["Match"]) if one["ID"] in progress else ""
    if view is None:
        return (one["ID"], "unreachable", "", "", "", "", match, "", "", "", "")
    known = view.get("StateHash")
    role = "learner" if one["ID"] in view.get("Learners", ()) else view["Role"]
    return (
        one["ID"],
        role,
        str(view["Term"]),
        str(view["CommitIndex"]),
        str(view["AppliedIndex"]),
        str(view["LastIndex"]),
        match,
        str(view.get("SnapshotIndex", "")),
        human_size(view["LogBytes"]) if "LogBytes" in view else "",
        f"{view.get('Version', '')} ({view.get('Build', '')})",
        "" if known is None else f"{known['Revision']}:{known['Hash'][:HASH_CHARS]}",
    )


def _difference_of_states(masters: Any) -> str:
    """Masters of one build must have the same hash at the same revision."""
    seen: dict[tuple[Any, ...], tuple[str, str]] = {}
    for one in masters:
        view = one["Raft"] or {}
        known = view.get("StateHash")
        if known is None:
            continue
        moment = (known["Revision"], view.get("Version"), view.get("Build"))
        other, expected = seen.setdefault(moment, (one["ID"], known["Hash"]))
        if known["Hash"] != expected:
            return (
                f"the states of {other} and {one['ID']} differ at revision {known['Revision']}: "
                "back up the cluster and see their logs"
            )
    return ""
