"""`essaim service …`: Swarm's commands, columns and messages."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from essaim_cli.client import Client, client_of
from essaim_cli.converge import wait_converged
from essaim_cli.errors import ApiError, CommandFailed, usage
from essaim_cli.formatting import natural_key, short_id
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
from essaim_cli.pretty import pretty_service
from essaim_cli.service_spec import CREATE_OPTIONS, DURATION, key_values, service_spec

SERVICE_COLUMNS = {
    "ID": "ID",
    "Name": "NAME",
    "Mode": "MODE",
    "Replicas": "REPLICAS",
    "Image": "IMAGE",
    "Ports": "PORTS",
}
UPDATE_ATTEMPTS_MAX = 8
"""Of a change that is read, made and written back while others change the service too."""

F = TypeVar("F", bound=Callable[..., Any])


def wait_options(command: F) -> F:
    """How long and how loudly a command waits."""
    for option in (
        click.option("--timeout", type=DURATION, help="Essaim: end a wait that does not succeed."),
        click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
        click.option("-d", "--detach", is_flag=True, help="Do not wait for the service."),
    ):
        command = option(command)
    return command


@click.group()
def service() -> None:
    """Manage services."""


@service.command(context_settings={"allow_interspersed_args": False})
@click.argument("image")
@click.argument("arguments", nargs=-1, metavar="[COMMAND] [ARG]...", type=click.UNPROCESSED)
@wait_options
@click.pass_context
def create(
    context: click.Context,
    /,
    image: str,
    arguments: tuple[str, ...],
    detach: bool,
    quiet: bool,
    timeout: int | None,
    **options: Any,
) -> None:
    """Create a service. What follows IMAGE belongs to the container."""
    client = client_of(context)
    answer = client.post("/services/create", service_spec(image, arguments, options))
    for warning in answer.get("Warnings") or ():
        click.echo(f"Warning: {warning}", err=True)
    click.echo(answer["ID"])
    if not detach:
        wait_converged(client, answer["ID"], _seconds(timeout), quiet)


for _option in CREATE_OPTIONS:
    _option(create)


@service.command("ls")
@list_options
@click.pass_context
def list_services(context: click.Context, /, **options: Any) -> None:
    """List services."""
    filters = parse_filters(options["filters"])
    found = client_of(context).get("/services", filters=filters, status="true")
    rows = [_service_row(item) for item in found]
    rows.sort(key=lambda row: natural_key(row["Name"]))
    show_list(rows, SERVICE_COLUMNS, options)


@service.command()
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...")
@task_list_options
@click.pass_context
def ps(context: click.Context, /, services: tuple[str, ...], **options: Any) -> None:
    """List the tasks of one or more services."""
    client = client_of(context)
    found, failures = each(services, lambda name: client.get(f"/services/{name}"))
    if found:
        show_tasks(client, "service", [item["ID"] for item in found], options)
    raise_failures(failures)


@service.command()
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...")
@click.option("--pretty", is_flag=True, help="For people.")
@click.option("-f", "--format", "template", help="A Go template over each object.")
@click.pass_context
def inspect(
    context: click.Context, services: tuple[str, ...], pretty: bool, template: str | None
) -> None:
    """Show services in full."""
    client = client_of(context)
    found, failures = each(services, lambda name: client.get(f"/services/{name}"))
    show_objects(found, template, pretty_service if pretty else None)
    raise_failures(failures)


@service.command()
@click.argument("targets", nargs=-1, required=True, metavar="SERVICE=REPLICAS...")
@wait_options
@click.pass_context
def scale(
    context: click.Context,
    targets: tuple[str, ...],
    detach: bool,
    quiet: bool,
    timeout: int | None,
) -> None:
    """Set the number of tasks of one or more services."""
    client = client_of(context)
    wanted = dict(_parse_target(target) for target in targets)
    done, failures = each(tuple(wanted), lambda name: _scale_one(client, name, wanted[name]))
    if not detach:
        for service_id in done:
            wait_converged(client, service_id, _seconds(timeout), quiet)
    raise_failures(failures)


@service.command()
@click.argument("name", metavar="SERVICE")
@click.option("--replicas", type=click.IntRange(min=0), help="Number of tasks.")
@click.option("--image", help="Image of the service's tasks.")
@click.option("--label-add", multiple=True, metavar="KEY=VALUE", help="Add or change a label.")
@click.option("--label-rm", multiple=True, metavar="KEY", help="Remove a label.")
@click.option("--force", is_flag=True, help="Replace the tasks even if nothing changed.")
@wait_options
@click.pass_context
def update(
    context: click.Context,
    name: str,
    replicas: int | None,
    image: str | None,
    label_add: tuple[str, ...],
    label_rm: tuple[str, ...],
    force: bool,
    detach: bool,
    quiet: bool,
    timeout: int | None,
) -> None:
    """Change a service."""
    client = client_of(context)
    labels = key_values("--label-add", label_add)

    def change(spec: dict[str, Any]) -> None:
        if replicas is not None:
            _set_replicas(spec, replicas, name)
        if image is not None:
            spec["TaskTemplate"]["ContainerSpec"]["Image"] = image
        if force:
            template = spec["TaskTemplate"]
            template["ForceUpdate"] = template.get("ForceUpdate", 0) + 1
        kept = {key: value for key, value in spec.get("Labels", {}).items() if key not in label_rm}
        spec["Labels"] = {**kept, **labels}

    service_id = _update(client, name, change)
    click.echo(name)
    if not detach:
        wait_converged(client, service_id, _seconds(timeout), quiet)


@service.command("rm")
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...")
@click.pass_context
def remove(context: click.Context, services: tuple[str, ...]) -> None:
    """Remove one or more services."""
    client = client_of(context)

    def remove_one(name: str) -> None:
        client.delete(f"/services/{name}")
        click.echo(name)

    _, failures = each(services, remove_one)
    raise_failures(failures)


def _service_row(item: Any) -> dict[str, str]:
    status = item["ServiceStatus"]
    replicas = f"{status['RunningTasks']}/{status['DesiredTasks']}"
    template = item["Spec"]["TaskTemplate"]
    if per_node := (template.get("Placement") or {}).get("MaxReplicas"):
        replicas += f" (max {per_node} per node)"
    return {
        "ID": short_id(item["ID"], no_trunc=False),
        "Name": item["Spec"]["Name"],
        "Mode": "replicated",
        "Replicas": replicas,
        "Image": template["ContainerSpec"]["Image"].partition("@")[0],
        "Ports": "",
    }


def _parse_target(target: str) -> tuple[str, int]:
    name, separator, count = target.rpartition("=")
    if not (separator and name):
        raise usage(f"invalid scale specifier {target!r}: write SERVICE=REPLICAS")
    if not count.isascii() or not count.isdigit():
        raise usage(f"invalid replicas value {count!r} for {name}: it must be a whole number >= 0")
    return name, int(count)


def _scale_one(client: Client, name: str, replicas: int) -> str:
    service_id = _update(client, name, lambda spec: _set_replicas(spec, replicas, name))
    click.echo(f"{name} scaled to {replicas}")
    return service_id


def _set_replicas(spec: dict[str, Any], replicas: int, name: str) -> None:
    if "Replicated" not in spec["Mode"]:
        raise CommandFailed(f"{name}: scale can only be used with replicated mode")
    spec["Mode"]["Replicated"]["Replicas"] = replicas


def _update(client: Client, name: str, change: Callable[[dict[str, Any]], None]) -> str:
    """Read, change, write back; again when somebody else wrote in between. Returns the id."""
    for attempt in range(1, UPDATE_ATTEMPTS_MAX + 1):
        present = client.get(f"/services/{name}")
        change(present["Spec"])
        version = str(present["Version"]["Index"])
        try:
            client.post(f"/services/{present['ID']}/update", present["Spec"], version=version)
        except ApiError as error:
            if "out of sequence" in error.message and attempt < UPDATE_ATTEMPTS_MAX:
                continue
            raise
        return str(present["ID"])
    raise AssertionError("the last attempt returns or raises")


def _seconds(duration_ns: int | None) -> float | None:
    return None if duration_ns is None else duration_ns / 1_000_000_000
