"""`essaim secret` and `essaim config`: `create|inspect|ls|rm|update`, in the words of Docker.

Both are the same but for what may be shown. Data comes from a file or standard input, never from
an argument, which others on the machine could read. Newer data that was sent and whose answer was
lost is merely sent again: the masters see that it is the same.
"""

import base64
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import click

from essaim_cli.client import Client, client_of
from essaim_cli.converge import get_patiently
from essaim_cli.errors import ApiError, BrokenOff, CommandFailed
from essaim_cli.flag_kinds import CREATE, DockerCommand, Refused, Value, flag_options
from essaim_cli.formatting import natural_key
from essaim_cli.grammar.fields import key_value
from essaim_cli.listing import (
    each,
    list_options,
    parse_filters,
    raise_failures,
    show_list,
    show_objects,
)
from essaim_cli.pace import utc_now
from essaim_cli.payload_view import CONFIG_COLUMNS, SECRET_COLUMNS, payload_row, pretty_payload
from essaim_shared.limits import CONFIG_BYTES_MAX, SECRET_BYTES_MAX

Kind = Literal["secret", "config"]
Json = dict[str, Any]

ATTEMPTS_MAX = 8
"""Of a change that lost masters get in the way of."""
STDIN = "-"
BYTES_MAX = {"secret": SECRET_BYTES_MAX, "config": CONFIG_BYTES_MAX}

_FLAGS = (
    Value(
        name="label",
        short="l",
        parse=key_value,
        metavar="KEY=VALUE",
        help="Label.",
        is_repeated=True,
    ),
    Refused(name="driver", reason="Essaim keeps the data itself, sealed"),
    Refused(name="template-driver", reason="put what differs from task to task into variables"),
)


def _create(context: click.Context, kind: Kind, name: str, file: str, given: Json) -> None:
    data = read_data(kind, file)
    body = {"Name": name, "Labels": dict(given["label"]), "Data": encoded(data)}
    click.echo(_created(client_of(context), kind, body)["ID"])


def _update(context: click.Context, kind: Kind, name: str, file: str) -> None:
    answer = put_data(client_of(context), kind, name, read_data(kind, file))
    number = answer["DataVersion"]
    if not answer["Changed"]:
        click.echo(f"{kind} {name} has this data already: version {number}")
        return
    click.echo(f"{kind} {name}: version {number}")
    if services := answer["Services"]:
        click.echo(f"Services that follow roll to it: {', '.join(services)}", err=True)


def _list(context: click.Context, kind: Kind, options: Json) -> None:
    found = client_of(context).get(f"/{kind}s", filters=parse_filters(options["filters"]))
    now = utc_now()
    rows = [payload_row(item, now) for item in found]
    rows.sort(key=lambda row: natural_key(row["Name"]))
    show_list(rows, SECRET_COLUMNS if kind == "secret" else CONFIG_COLUMNS, options)


def _inspect(
    context: click.Context,
    kind: Kind,
    names: tuple[str, ...],
    template: str | None,
    is_pretty: bool,
) -> None:
    if is_pretty and template:
        raise CommandFailed("--format is incompatible with human friendly format")
    client = client_of(context)
    found, failures = each(names, lambda name: client.get(payload_path(kind, name)))
    show_objects(found, template, pretty_payload if is_pretty else None)
    raise_failures(failures)


def _remove(context: click.Context, kind: Kind, names: tuple[str, ...]) -> None:
    client = client_of(context)

    def remove_one(name: str) -> None:
        client.delete(payload_path(kind, name))
        click.echo(name)

    _, failures = each(names, remove_one)
    raise_failures(failures)


def payload_path(kind: Kind, name: str) -> str:
    return f"/{kind}s/{quote(name, safe='')}"


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def read_data(kind: Kind, file: str) -> bytes:
    """Raises CommandFailed; no word of the file's content is in it. One byte more than is allowed
    is read, for the masters to refuse."""
    most = BYTES_MAX[kind] + 1
    if file == STDIN:
        return sys.stdin.buffer.read(most)
    try:
        with Path(file).open("rb") as source:
            return source.read(most)
    except OSError as error:
        raise CommandFailed(f"open {file}: {error.strerror or error}") from error


def put_data(client: Client, kind: Kind, name: str, data: bytes) -> Json:
    """The masters' answer. Whether the data was new is said by the first that was heard."""
    body = {"Data": encoded(data)}
    for attempts_left in reversed(range(ATTEMPTS_MAX)):
        try:
            answer: Json = client.post(f"/essaim{payload_path(kind, name)}/data", body)
        except BrokenOff:
            if not attempts_left:
                raise
        else:
            return answer
    raise AssertionError("the last attempt returns or raises")


def _created(client: Client, kind: Kind, body: Json) -> Json:
    was_broken_off = False
    for attempts_left in reversed(range(ATTEMPTS_MAX)):
        try:
            answer: Json = client.post(f"/{kind}s/create", body)
        except BrokenOff:
            if not attempts_left:
                raise
            was_broken_off = True
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT or not was_broken_off:
                raise
            return _found_created(client, kind, body, error)
        else:
            return answer
    raise AssertionError("the last attempt returns or raises")


def _found_created(client: Client, kind: Kind, body: Json, conflict: ApiError) -> Json:
    """What an earlier attempt made, though its answer was lost. What is in a secret nobody tells,
    so whether it is this one cannot be known."""
    found = get_patiently(client, payload_path(kind, body["Name"]))
    if kind == "config" and found["Spec"] == {**body, "Labels": body["Labels"] or {}}:
        return {"ID": found["ID"]}
    if kind == "secret":
        raise ApiError(
            conflict.status,
            f"{conflict.message}; it may be the one that this command made before the master's "
            f"answer was lost: essaim secret update {body['Name']} makes sure of its data",
        ) from conflict
    raise conflict


def _commands(kind: Kind) -> dict[str, click.Command]:
    """The five commands of a kind."""

    @click.command("create", cls=DockerCommand, help=f"Create a {kind} from a file, or from -.")
    @flag_options(_FLAGS, CREATE)
    @click.argument("name", metavar=kind.upper())
    @click.argument("file", metavar="FILE|-")
    @click.pass_context
    def create(context: click.Context, /, name: str, file: str, **given: Any) -> None:
        _create(context, kind, name, file, given)

    @click.command("update", help=f"Give a {kind} newer data; services that follow roll to it.")
    @click.argument("name", metavar=kind.upper())
    @click.argument("file", metavar="FILE|-")
    @click.pass_context
    def update(context: click.Context, name: str, file: str) -> None:
        _update(context, kind, name, file)

    @click.command("ls", help=f"List {kind}s.")
    @list_options
    @click.pass_context
    def ls(context: click.Context, /, **options: Any) -> None:
        _list(context, kind, options)

    @click.command("inspect", help=f"Show {kind}s in full.")
    @click.argument("names", nargs=-1, required=True, metavar=f"{kind.upper()}...")
    @click.option("-f", "--format", "template", help="A Go template over each object.")
    @click.option("--pretty", is_flag=True, help="For people.")
    @click.pass_context
    def inspect(
        context: click.Context, names: tuple[str, ...], template: str | None, pretty: bool
    ) -> None:
        _inspect(context, kind, names, template, pretty)

    @click.command("rm", help=f"Remove one or more {kind}s.")
    @click.argument("names", nargs=-1, required=True, metavar=f"{kind.upper()}...")
    @click.pass_context
    def rm(context: click.Context, names: tuple[str, ...]) -> None:
        _remove(context, kind, names)

    return {"create": create, "update": update, "ls": ls, "inspect": inspect, "rm": rm}


_SECRET, _CONFIG = _commands("secret"), _commands("config")

create_secret, create_config = _SECRET["create"], _CONFIG["create"]
update_secret, update_config = _SECRET["update"], _CONFIG["update"]
list_secrets, list_configs = _SECRET["ls"], _CONFIG["ls"]
inspect_secrets, inspect_configs = _SECRET["inspect"], _CONFIG["inspect"]
remove_secrets, remove_configs = _SECRET["rm"], _CONFIG["rm"]
