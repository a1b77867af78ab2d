"""`essaim cluster …`: the masters themselves."""

import json
import os
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from essaim_cli.client import Client, client_of
from essaim_cli.errors import ApiError, CommandFailed
from essaim_cli.formatting import table
from essaim_cli.main import LazyGroup
from essaim_cli.master_tools import ask_tool, run_tool

MEMBER_HEADINGS = ("ID", "ROLE", "LEADER", "RAFT ADDRESS", "HTTP ADDRESS", "VERSION", "ADDED")
PASS_ON = {"ignore_unknown_options": True, "help_option_names": []}
"""For commands whose options are the tool's."""


@click.group(
    cls=LazyGroup,
    lazy={
        "ca": ("essaim_cli.cluster_authority:ca", "Show or replace the certificate authority"),
        "init": ("essaim_cli.cluster_forming:init", "Found a cluster on this machine"),
        "join": ("essaim_cli.cluster_forming:join", "Let this machine join a cluster"),
        "join-token": (
            "essaim_cli.cluster_authority:join_token",
            "Show the token with which a machine joins",
        ),
    },
)
def cluster() -> None:
    """Manage the masters, who may join them, and what they keep."""


@cluster.group()
def members() -> None:
    """Add, promote and remove masters."""


@members.command("ls")
@click.option("-a", "--all", "with_removed", is_flag=True, help="Removed masters too.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@click.pass_context
def list_members(context: click.Context, with_removed: bool, output: str) -> None:
    """List the masters, and those that stand by."""
    client = client_of(context)
    found = [*client.get("/essaim/cluster/members"), *_standbys(client)]
    shown = [member for member in found if with_removed or not member["Removed"]]
    if output == "json":
        click.echo(json.dumps(shown))
    else:
        click.echo(table(MEMBER_HEADINGS, [_member_row(member) for member in shown]))


@members.command()
@click.argument("member_id", metavar="ID")
@click.option("--raft", required=True, metavar="HOST:PORT", help="Where other masters reach it.")
@click.option("--http", required=True, metavar="HOST:PORT", help="Where its API listens.")
@click.pass_context
def add(context: click.Context, member_id: str, raft: str, http: str) -> None:
    """Let a new master join, as a learner: it gets the state and does not vote yet.

    Start it with `join = true` in its configuration, and promote it when it has caught up.
    """
    body = {"ID": member_id, "Addr": raft, "HTTPAddr": http}
    client_of(context).post("/essaim/cluster/members", body)
    click.echo(member_id)


@members.command()
@click.argument("member_id", metavar="ID")
@click.pass_context
def promote(context: click.Context, member_id: str) -> None:
    """Let a learner that has caught up vote."""
    client_of(context).post(f"/essaim/cluster/members/{quote(member_id, safe='')}/promote", {})
    click.echo(member_id)


@members.command("rm")
@click.argument("member_id", metavar="ID")
@click.option("--revoke", is_flag=True, help="Its identity too: it must join again to stand by.")
@click.pass_context
def remove(context: click.Context, member_id: str, revoke: bool) -> None:
    """Remove a master for good: its name cannot come back. One that does not answer loses its
    identity too."""
    query = {"revoke": "1"} if revoke else {}
    client_of(context).delete(f"/essaim/cluster/members/{quote(member_id, safe='')}", **query)
    click.echo(member_id)


@cluster.command("transfer-leadership")
@click.argument("member_id", metavar="[ID]", required=False)
@click.pass_context
def transfer_leadership(context: click.Context, member_id: str | None) -> None:
    """Hand leadership to a master; without ID to the one that follows best."""
    body = {} if member_id is None else {"To": member_id}
    answer = client_of(context).post("/essaim/cluster/transfer-leadership", body)
    click.echo(answer["Leader"])


@cluster.command("rotate-data-key")
@click.pass_context
def rotate_data_key(context: click.Context) -> None:
    """Give the asked master's disk a new key: what it writes from now on is sealed with that.

    The old one goes once nothing on the disk needs it. Masters do this every 90 days themselves.
    """
    click.echo(client_of(context).post("/essaim/cluster/data-key/rotate", {})["Key"])


@cluster.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--data-dir", metavar="DIR", help="Of a stopped master, instead of asking one.")
@click.option(
    "--seal-key-file",
    type=click.Path(dir_okay=False),
    help="The masters' key: to check what is inside, and to seal what --data-dir reads.",
)
@click.option("--unencrypted", is_flag=True, help="An open file: whoever has it can read it.")
@click.pass_context
def backup(
    context: click.Context,
    file: Path,
    data_dir: str | None,
    seal_key_file: str | None,
    unencrypted: bool,
) -> None:
    """Write the whole state into a file that others cannot read, and check that it is whole.

    The masters seal it with the key that they share (seal_key_file); with that key it is restored.
    """
    key = [] if seal_key_file is None else [f"--seal-key-file={seal_key_file}"]
    if data_dir is not None:
        open_file = ["--unencrypted"] if unencrypted else []
        run_tool(["backup", str(file), f"--data-dir={data_dir}", *key, *open_file])
    path = "/essaim/cluster/backup" + ("?unencrypted=1" if unencrypted else "")
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        with partial.open("wb") as written:
            client_of(context).download(path, written)
            written.flush()
            os.fsync(written.fileno())
        found = ask_tool(["check", str(partial), *key])
        partial.rename(file)
    except OSError as error:
        raise CommandFailed(f"cannot write {file}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    click.echo(found.replace(str(partial), str(file), 1))


def _tool_command(name: str, help_text: str) -> None:
    @cluster.command(name, context_settings=PASS_ON, add_help_option=False, help=help_text)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def run(arguments: tuple[str, ...]) -> None:
        run_tool([name, *arguments])


_tool_command("restore", "Make a data directory from a backup (--help for its options).")
_tool_command("recover", "Start again after a majority of the masters is lost for good.")


def _standbys(client: Client) -> list[Any]:
    """Masters that stand by, as rows of members. None are known while nobody leads."""
    try:
        found = client.get("/essaim/cluster/standbys")
    except ApiError as error:
        if error.status != HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        found = []
    absent = {"Role": "standby", "Leader": False, "AddedAt": None, "Removed": False}
    return [{**standby, **absent} for standby in found]


def _member_row(member: Any) -> tuple[str, ...]:
    version = member["Version"]
    return (
        member["ID"],
        "removed" if member["Removed"] else member["Role"],
        "*" if member["Leader"] else "",
        member["Addr"],
        member["HTTPAddr"],
        "" if version is None else f"{version} ({member['Build']})",
        (member["AddedAt"] or "")[:19],
    )
