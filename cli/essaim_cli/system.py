"""`essaim info` and `essaim version`."""

import json
import platform
from typing import Any

import click

from essaim_cli.client import client_of
from essaim_cli.errors import MasterUnreachable
from essaim_cli.formatting import render_template
from essaim_shared import __version__

LABEL_WIDTH = 22


def _rows(rows: dict[str, Any]) -> str:
    return "\n".join(f"{label + ':':<{LABEL_WIDTH}} {value}" for label, value in rows.items())


@click.command()
@click.option("-f", "--format", "template", help="json, or a Go template.")
@click.pass_context
def info(context: click.Context, template: str | None) -> None:
    """Show the cluster as a master sees it."""
    client = client_of(context)
    found = client.get("/info")
    raft = client.get("/essaim/raft")
    if template == "json":
        click.echo(json.dumps({**found, "Raft": raft}))
        return
    if template:
        click.echo(render_template(template, {**found, "Raft": raft}))
        return
    swarm = found["Swarm"]
    click.echo(
        _rows(
            {
                "Master": client.url,
                "Cluster": swarm["Cluster"]["ID"],
                "Nodes": swarm["Nodes"],
                "Masters": swarm["Managers"],
                "Raft member": raft["MemberID"],
                "Raft role": raft["Role"],
                "Raft leader": raft["Leader"] or "none",
                "Raft term": raft["Term"],
                "Raft commit / applied": f"{raft['CommitIndex']} / {raft['AppliedIndex']}",
            }
        )
    )


@click.command()
@click.option("-f", "--format", "template", help="json, or a Go template.")
@click.pass_context
def version(context: click.Context, template: str | None) -> None:
    """Show the versions of client and master."""
    client_side = {"Version": __version__, "PythonVersion": platform.python_version()}
    try:
        server = client_of(context).get("/version")
    except MasterUnreachable as error:
        if template:
            raise
        click.echo(_rows({"Client version": __version__}))
        raise error
    both = {"Client": client_side, "Server": server}
    if template == "json":
        click.echo(json.dumps(both))
    elif template:
        click.echo(render_template(template, both))
    else:
        click.echo(
            _rows(
                {
                    "Client version": __version__,
                    "Python": client_side["PythonVersion"],
                    "Server version": server["Version"],
                    "Server API version": server["ApiVersion"],
                    "Server minimum API": server["MinAPIVersion"],
                }
            )
        )
