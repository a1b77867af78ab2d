"""`essaim node …`."""

from typing import Any

import click

from essaim_cli.client import Client, client_of
from essaim_cli.errors import CommandFailed
from essaim_cli.formatting import natural_key
from essaim_cli.listing import (
    each,
    list_options,
    parse_filters,
    raise_failures,
    show_list,
    show_objects,
    show_tasks,
    task_list_options,
)
from essaim_cli.pretty import pretty_node
from essaim_cli.service_spec import key_values
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
def list_nodes(context: click.Context, /, **options: Any) -> None:
    """List nodes, with what they use."""
    client = client_of(context)
    found = client.get("/nodes", filters=parse_filters(options["filters"]))
    figures = client.get("/essaim/figures")["Nodes"]
    swarm = client.get("/info")["Swarm"]
    own_id, trusted = swarm["NodeID"], swarm["Cluster"].get("TLSInfo")
    is_data = options["quiet"] or "json" in (options["template"], options["output"])
    rows = [_node_row(item, figures.get(item["ID"]), own_id, trusted, is_data) for item in found]
    rows.sort(key=lambda row: natural_key(row["Hostname"]))
    show_list(rows, NODE_COLUMNS, options)


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
    found, failures = each(nodes, lambda name: _node(client, name))
    figures = client.get("/essaim/figures")["Nodes"]
    for item in found:
        item["Figures"] = figures.get(item["ID"])
    show_objects(
        found, template, (lambda item: pretty_node(item, item["Figures"])) if pretty else None
    )
    raise_failures(failures)


@node.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@task_list_options
@click.pass_context
def ps(context: click.Context, /, nodes: tuple[str, ...], **options: Any) -> None:
    """List the tasks on one or more nodes."""
    client = client_of(context)
    found, failures = each(nodes, lambda name: _node(client, name))
    if found:
        show_tasks(client, "node", [item["ID"] for item in found], options)
    raise_failures(failures)


@node.command()
@click.argument("name", metavar="NODE")
@click.option("--availability", type=click.Choice(["active", "pause", "drain"]))
@click.option("--role", type=click.Choice(["manager", "worker"]), help="As promote and demote do.")
@click.option("--label-add", multiple=True, metavar="KEY=VALUE", help="Add or change a label.")
@click.option("--label-rm", multiple=True, metavar="KEY", help="Remove a label.")
@click.pass_context
def update(
    context: click.Context,
    name: str,
    availability: str | None,
    role: str | None,
    label_add: tuple[str, ...],
    label_rm: tuple[str, ...],
) -> None:
    """Change a node's availability, role or labels."""
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
    if role is not None:
        spec["Role"] = role
    _write(client, item)
    click.echo(name)


@node.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@click.pass_context
def promote(context: click.Context, nodes: tuple[str, ...]) -> None:
    """Make nodes managers: a master must stand by on each."""
    for name in nodes:
        if _has_new_role(client_of(context), name, "manager"):
            click.echo(f"Node {name} promoted to a manager in the swarm.")


@node.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@click.pass_context
def demote(context: click.Context, nodes: tuple[str, ...]) -> None:
    """Remove the masters of nodes: they go back to standing by."""
    for name in nodes:
        if _has_new_role(client_of(context), name, "worker"):
            click.echo(f"Manager {name} demoted in the swarm.")


@node.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@click.pass_context
def readmit(context: click.Context, nodes: tuple[str, ...]) -> None:
    """Let nodes onto the bus again that were cut off because they flooded it."""
    client = client_of(context)

    def readmit_one(name: str) -> None:
        client.post(f"/essaim/nodes/{name}/readmit", {})
        click.echo(name)

    _, failures = each(nodes, readmit_one)
    raise_failures(failures)


@node.command("rm")
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@click.option("-f", "--force", is_flag=True, help="Even if the node is not down.")
@click.pass_context
def remove(context: click.Context, nodes: tuple[str, ...], force: bool) -> None:
    """Remove nodes that are down."""
    client = client_of(context)

    def remove_one(name: str) -> None:
        client.delete(f"/nodes/{name}", force=str(force).lower())
        click.echo(name)

    _, failures = each(nodes, remove_one)
    raise_failures(failures)


def _node(client: Client, name: str) -> Any:
    """`self` is the node on the host of the master that is asked."""
    wanted = client.get("/info")["Swarm"]["NodeID"] if name == "self" else name
    return client.get(f"/nodes/{wanted}")


def _has_new_role(client: Client, name: str, role: str) -> bool:
    """As `docker node promote` (docker/cli, node/promote.go): whether it had another one before;
    if not, that is said."""
    item = client.get(f"/nodes/{name}")
    if item["Spec"]["Role"] == role:
        click.echo(f"Node {item['ID']} is already a {role}.")
        return False
    item["Spec"]["Role"] = role
    _write(client, item)
    return True


def _write(client: Client, item: Any) -> None:
    version = str(item["Version"]["Index"])
    client.post(f"/nodes/{item['ID']}/update", item["Spec"], version=version)


def _tls_status(shown: Any, trusted: Any) -> str:
    """As `docker node ls` (docker/cli, node/formatter.go)."""
    if not shown or not trusted:
        return "Unknown"
    return "Ready" if shown == trusted else "Needs Rotation"


def _status(status: Any) -> str:
    """`node inspect` says why a node is suspended."""
    is_suspended = status.get("Message", "").startswith("suspended: ")
    state: str = status["State"].capitalize()
    return f"{state} (suspended)" if is_suspended else state


def _node_row(
    item: Any, figures: Any | None, own_id: str, trusted: Any, is_data: bool
) -> dict[str, str]:
    manager = item.get("ManagerStatus") or {}
    role = "Leader" if manager.get("Leader") else manager.get("Reachability", "").capitalize()
    mark = " *" if item["ID"] == own_id and not is_data else ""
    used = figures or {}
    memory = ""
    if used:
        memory = (
            f"{human_size(used['memory_used_bytes'])} / {human_size(used['memory_total_bytes'])}"
        )
    return {
        "ID": item["ID"] + mark,
        "Self": str(item["ID"] == own_id).lower(),
        "TLSStatus": _tls_status(item["Description"].get("TLSInfo"), trusted),
        "Hostname": item["Description"]["Hostname"],
        "Status": _status(item["Status"]),
        "Availability": item["Spec"]["Availability"].capitalize(),
        "ManagerStatus": role,
        "EngineVersion": item["Description"]["Engine"]["EngineVersion"],
        "CPU": f"{used['cpu_percent']:.1f}%" if used else "",
        "Memory": memory,
    }
