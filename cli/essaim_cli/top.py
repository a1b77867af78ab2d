"""`essaim top`: what nodes and tasks use, drawn again as new figures come."""

import sys
from collections.abc import Callable
from typing import Any

import click

from essaim_cli.client import Client, client_of
from essaim_cli.formatting import natural_key, short_id, table
from essaim_cli.listing import node_names
from essaim_cli.pace import pause
from essaim_cli.units import human_size

REFRESH_S = 2.0

NODE_HEADINGS = ("NODE", "CPU %", "LOAD", "MEM USAGE / TOTAL", "MEM %", "DISK %", "NET I/O")
TASK_HEADINGS = (
    "TASK",
    "NAME",
    "NODE",
    "CPU %",
    "MEM USAGE / LIMIT",
    "MEM %",
    "NET I/O",
    "BLOCK I/O",
    "PIDS",
)


@click.group()
def top() -> None:
    """Show what nodes and tasks use."""


def _no_stream_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--no-stream", is_flag=True, help="Print once and end.")(command)


@top.command()
@_no_stream_option
@click.pass_context
def nodes(context: click.Context, no_stream: bool) -> None:
    """CPU, memory, disk and network of each node."""
    client = client_of(context)
    _show(lambda: table(NODE_HEADINGS, node_usage(client)), no_stream)


@top.command()
@_no_stream_option
@click.pass_context
def tasks(context: click.Context, no_stream: bool) -> None:
    """CPU, memory, network and block I/O of each task."""
    client = client_of(context)
    _show(lambda: table(TASK_HEADINGS, task_usage(client)), no_stream)


def node_usage(client: Client) -> list[tuple[str, ...]]:
    figures = client.get("/essaim/figures")["Nodes"]
    names = node_names(client)
    rows = [
        (
            names.get(node_id, node_id),
            f"{used['cpu_percent']:.1f}%",
            f"{used['load_1']:.2f}",
            _pair(used["memory_used_bytes"], used["memory_total_bytes"]),
            _percent(used["memory_used_bytes"], used["memory_total_bytes"]),
            _percent(used["disk_used_bytes"], used["disk_total_bytes"]),
            _pair(used["network_receive_bytes"], used["network_transmit_bytes"]),
        )
        for node_id, used in figures.items()
    ]
    return sorted(rows, key=lambda row: natural_key(row[0]))


def task_usage(client: Client) -> list[tuple[str, ...]]:
    figures = client.get("/essaim/figures")["Tasks"]
    names = {item["ID"]: item["Spec"]["Name"] for item in client.get("/services")}
    hosts = node_names(client)
    rows = []
    for task in client.get("/tasks"):
        used = figures.get(task["ID"])
        if used is None:
            continue
        service = names.get(task["ServiceID"], task["ServiceID"])
        rows.append(
            (
                short_id(task["ID"], no_trunc=False),
                f"{service}.{task.get('Slot') or task['NodeID']}",
                hosts.get(task["NodeID"], task["NodeID"]),
                f"{used['cpu_percent']:.1f}%",
                _pair(used["memory_working_set_bytes"], used["memory_limit_bytes"]),
                _percent(used["memory_working_set_bytes"], used["memory_limit_bytes"]),
                _pair(used["network_receive_bytes"], used["network_transmit_bytes"]),
                _pair(used["block_read_bytes"], used["block_write_bytes"]),
                str(used["process_count"]),
            )
        )
    return sorted(rows, key=lambda row: natural_key(row[1]))


def _pair(first_bytes: int, second_bytes: int) -> str:
    return f"{human_size(first_bytes)} / {human_size(second_bytes)}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"


def _show(picture: Callable[[], str], once: bool) -> None:
    """Print once, or draw over the last picture until interrupted. Only a terminal is drawn on."""
    if once or not sys.stdout.isatty():
        click.echo(picture())
        return
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False, screen=True) as live:
        try:
            while True:
                live.update(Text(picture()), refresh=True)
                pause(REFRESH_S)
        except KeyboardInterrupt:
            return
