"""`essaim node …`."""

from typing import Any

import click

from essaim_cli.client import Client, client_of
from essaim_cli.errors import ApiError, CommandFailed
from essaim_cli.formatting import natural_key, render_list
from essaim_cli.pace import utc_now
from essaim_cli.pretty import pretty_node
from essaim_cli.service import list_options, node_names, parse_filters, show_objects
from essaim_cli.service_spec import key_values
from essaim_cli.task_view import TASK_COLUMNS, task_rows
from essaim_cli.units import human_size

NODE_COLUMNS = {
    "ID": "ID",
    "Hostname": "HOSTNAME",
    "Status": "STATUS",
    "Availability": "AVAILABILITY",
    "ManagerStatus": "MANAGER STATUS",
    "EngineVersion": "ENGINE VERSION",
    "CPU": "CPU %",
    "Memory": "MEM USAGE / TOTAL",
}


@click.group()
def node() -> None:
    """Manage nodes."""


@node.command("ls")
@list_options
@click.pass_context
def list_nodes(
    context: click.Context,
    filters: tuple[str, ...],
    quiet: bool,
    template: str | None,
    output: str | None,
) -> None:
    """List nodes, with what they use."""
    client = client_of(context)
    found = client.get("/nodes", filters=parse_filters(filters))
    figures = client.get("/essaim/figures")["Nodes"]
    own_id = client.get("/info")["Swarm"]["NodeID"]
    full_ids = quiet or template == "json" or output == "json"
    rows = [_node_row(item, figures.get(item["ID"]), own_id, full_ids) for item in found]
    rows.sort(key=lambda row: natural_key(row["Hostname"]))
    text = render_list(rows, NODE_COLUMNS, template or output, quiet)
    if text:
        click.echo(text)


@node.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@click.option("--pretty", is_flag=True, help="For people.")
@click.option("-f", "--format", "template", help="A Go template over each object.")
@click.pass_context
def inspect(
    context: click.Context, nodes: tuple[str, ...], pretty: bool, template: str | None
) -> None:
    """Show nodes in full."""
    client = client_of(context)
    found, failures = _each(client, nodes)
    figures = client.get("/essaim/figures")["Nodes"]
    for item in found:
        item["Figures"] = figures.get(item["ID"])
    show_objects(
        found, template, (lambda item: pretty_node(item, item["Figures"])) if pretty else None
    )
    _raise(failures)


@node.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@list_options
@click.option("--no-trunc", is_flag=True, help="Do not cut IDs and errors.")
@click.option("--no-resolve", is_flag=True, help="Show IDs instead of names.")
@click.pass_context
def ps(
    context: click.Context,
    nodes: tuple[str, ...],
    filters: tuple[str, ...],
    quiet: bool,
    template: str | None,
    output: str | None,
    no_trunc: bool,
    no_resolve: bool,
) -> None:
    """List the tasks on one or more nodes."""
    client = client_of(context)
    found, failures = _each(client, nodes)
    if found:
        query = parse_filters(filters)
        query["node"] = [item["ID"] for item in found]
        tasks = client.get("/tasks", filters=query)
        services = client.get("/services") if not no_resolve else []
        names = {item["ID"]: item["Spec"]["Name"] for item in services}
        hosts = {} if no_resolve else node_names(client)
        rows = task_rows(tasks, names, hosts, utc_now(), no_trunc or quiet)
        if text := render_list(rows, TASK_COLUMNS, template or output, quiet):
            click.echo(text)
    _raise(failures)


@node.command()
@click.argument("name", metavar="NODE")
@click.option("--availability", type=click.Choice(["active", "pause", "drain"]))
@click.option("--label-add", multiple=True, metavar="KEY=VALUE", help="Add or change a label.")
@click.option("--label-rm", multiple=True, metavar="KEY", help="Remove a label.")
@click.pass_context
def update(
    context: click.Context,
    name: str,
    availability: str | None,
    label_add: tuple[str, ...],
    label_rm: tuple[str, ...],
) -> None:
    """Change a node's availability or labels."""
    client = client_of(context)
    item = client.get(f"/nodes/{name}")
    spec = item["Spec"]
    labels = dict(spec.get("Labels") or {})
    for key in label_rm:
        if key not in labels:
            raise CommandFailed(f"key {key!r} doesn't exist in node's labels")
        del labels[key]
    spec["Labels"] = {**labels, **key_values("--label-add", label_add)}
    if availability is not None:
        spec["Availability"] = availability
    client.post(f"/nodes/{item['ID']}/update", spec, version=str(item["Version"]["Index"]))
    click.echo(name)


@node.command("rm")
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@click.option("-f", "--force", is_flag=True, help="Even if the node is not down.")
@click.pass_context
def remove(context: click.Context, nodes: tuple[str, ...], force: bool) -> None:
    """Remove nodes that are down."""
    client = client_of(context)
    failures = []
    for name in nodes:
        try:
            client.delete(f"/nodes/{name}", force=str(force).lower())
        except ApiError as error:
            failures.append(error.message)
        else:
            click.echo(name)
    _raise(failures)


def _each(client: Client, nodes: tuple[str, ...]) -> tuple[list[Any], list[str]]:
    found, failures = [], []
    for name in nodes:
        try:
            wanted = client.get("/info")["Swarm"]["NodeID"] if name == "self" else name
            found.append(client.get(f"/nodes/{wanted}"))
        except ApiError as error:
            failures.append(error.message)
    return found, failures


def _raise(failures: list[str]) -> None:
    if failures:
        raise CommandFailed("\n".join(failures))


def _node_row(item: Any, figures: Any | None, own_id: str, full_ids: bool) -> dict[str, str]:
    manager = item.get("ManagerStatus") or {}
    role = "Leader" if manager.get("Leader") else manager.get("Reachability", "").capitalize()
    mark = " *" if item["ID"] == own_id and not full_ids else ""
    used = figures or {}
    memory = ""
    if used:
        memory = (
            f"{human_size(used['memory_used_bytes'])} / {human_size(used['memory_total_bytes'])}"
        )
    return {
        "ID": item["ID"] + mark,
        "Hostname": item["Description"]["Hostname"],
        "Status": item["Status"]["State"].capitalize(),
        "Availability": item["Spec"]["Availability"].capitalize(),
        "ManagerStatus": role,
        "EngineVersion": item["Description"]["Engine"]["EngineVersion"],
        "CPU": f"{used['cpu_percent']:.1f}%" if used else "",
        "Memory": memory,
    }
