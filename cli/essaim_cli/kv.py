"""`essaim kv …`: the cluster's key-value store. Data goes to stdout, byte for byte."""

import base64
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from essaim_cli import pace
from essaim_cli.client import Client, client_of
from essaim_cli.errors import ApiError, CommandFailed, MasterUnreachable, usage
from essaim_cli.formatting import table
from essaim_cli.kv_text import (
    argument_bytes,
    bytes_of,
    compare_of,
    event_line,
    key_query,
    operation_of,
    pair_line,
    result_lines,
    text_of,
)

RECONNECT_PAUSE_S = 0.5
RECONNECTS_MAX = 60
"""In a row, of a watch whose master cannot be reached."""
PAGE_LENGTH = 1000
KEEP_ALIVE_FRACTION = 3
"""A lease is kept alive after this part of its time, so that two attempts may fail."""
VALUE_BYTES_MAX = 2 * 1024 * 1024
"""Read from stdin; the master's own limit is lower and better explained by it."""

F = TypeVar("F", bound=Callable[..., Any])

output_option = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
prefix_option = click.option("--prefix", is_flag=True, help="All keys that begin with KEY.")
prev_option = click.option("--prev-kv", is_flag=True, help="Show what was there before.")


def read_options(command: F) -> F:
    for option in (
        click.option("--local", is_flag=True, help="What this master has, perhaps outdated."),
        click.option("--revision", type=click.IntRange(0), default=0, help="As it was then."),
    ):
        command = option(command)
    return command


@click.group()
def kv() -> None:
    """Keys and values of your own, in the cluster's replicated state."""


@kv.command()
@click.argument("key")
@click.argument("value", required=False)
@click.option("--lease", default="", metavar="ID", help="The key goes when the lease does.")
@prev_option
@output_option
@click.pass_context
def put(
    context: click.Context, key: str, value: str | None, lease: str, prev_kv: bool, output: str
) -> None:
    """Write VALUE, or what stands on stdin, under KEY."""
    data = sys.stdin.buffer.read(VALUE_BYTES_MAX) if value is None else argument_bytes(value)
    operation: dict[str, Any] = {"Op": "put", "Key": text_of(argument_bytes(key))}
    operation |= {"Value": text_of(data), "Lease": lease, "PrevKV": prev_kv}
    answer = client_of(context).post("/essaim/kv/txn", {"Then": [operation]})
    if output == "json":
        click.echo(json.dumps(answer))
        return
    for pair in answer["Results"][0]["PrevKVs"]:
        click.echo(bytes_of(pair["Value"]))


@kv.command()
@click.argument("key")
@prefix_option
@click.option("--limit", type=click.IntRange(0), default=0, help="At most so many keys.")
@read_options
@output_option
@click.pass_context
def get(
    context: click.Context,
    key: str,
    prefix: bool,
    limit: int,
    revision: int,
    local: bool,
    output: str,
) -> None:
    """Show the value of KEY; with --prefix, keys and values with a tab between them."""
    pages = _pages(client_of(context), key_query(key, prefix), limit, revision, local)
    pairs = [pair for page in pages for pair in page]
    if output == "json":
        click.echo(json.dumps(pairs))
    else:
        for pair in pairs:
            click.echo(pair_line(pair) if prefix else bytes_of(pair["Value"]))
    if not prefix and not pairs:
        raise CommandFailed(f"no key {key!r}")


@kv.command("ls")
@click.argument("prefix", default="")
@click.option("--limit", type=click.IntRange(0), default=0, help="At most so many keys.")
@read_options
@output_option
@click.pass_context
def list_keys(
    context: click.Context, prefix: str, limit: int, revision: int, local: bool, output: str
) -> None:
    """List keys, a line each."""
    pages = _pages(client_of(context), key_query(prefix, True), limit, revision, local)
    keys = [pair["Key"] for page in pages for pair in page]
    if output == "json":
        click.echo(json.dumps(keys))
        return
    for key in keys:
        click.echo(bytes_of(key))


@kv.command("del")
@click.argument("key")
@prefix_option
@prev_option
@output_option
@click.pass_context
def delete(context: click.Context, key: str, prefix: bool, prev_kv: bool, output: str) -> None:
    """Delete KEY; shows how many keys that were."""
    query = key_query(key, prefix) | ({"prev_kv": "1"} if prev_kv else {})
    answer = client_of(context).delete("/essaim/kv/range", **query)
    if output == "json":
        click.echo(json.dumps(answer))
        return
    click.echo(str(answer["Deleted"]))
    for pair in answer["PrevKVs"]:
        click.echo(pair_line(pair))


@kv.command()
@click.argument("key")
@prefix_option
@click.option("--revision", type=click.IntRange(0), default=0, help="From this revision on.")
@click.option("--prev-kv", is_flag=True, help="With -o json: what was there before, too.")
@output_option
@click.pass_context
def watch(
    context: click.Context, key: str, prefix: bool, revision: int, prev_kv: bool, output: str
) -> None:
    """Show every change of KEY as it happens, until interrupted. Goes on where it was after a
    lost connection: nothing is left out and nothing is told twice."""
    query = key_query(key, prefix) | ({"prev_kv": "1"} if prev_kv else {})
    for line in _watch_lines(client_of(context), query, revision):
        if not line["Events"]:
            continue
        if output == "json":
            click.echo(json.dumps(line))
        else:
            for event in line["Events"]:
                click.echo(event_line(event))
        sys.stdout.flush()


@kv.command()
@click.option("--if", "compares", multiple=True, metavar="COMPARE", help="KEY TARGET = OPERAND.")
@click.option("--then", multiple=True, metavar="OPERATION", help="put KEY VALUE | get | delete.")
@click.option("--else", "otherwise", multiple=True, metavar="OPERATION")
@output_option
@click.pass_context
def txn(
    context: click.Context,
    compares: tuple[str, ...],
    then: tuple[str, ...],
    otherwise: tuple[str, ...],
    output: str,
) -> None:
    """All or nothing: if every compare holds, the operations of --then, else those of --else.

    Without any of them, the API's JSON is read from stdin. Targets: value, version, create, mod,
    lease. Example: --if 'lock version = 0' --then 'put lock me --lease 7f' --else 'get lock'
    """
    if compares or then or otherwise:
        body: Any = {
            "If": [compare_of(words) for words in compares],
            "Then": [operation_of(words) for words in then],
            "Else": [operation_of(words) for words in otherwise],
        }
    else:
        try:
            body = json.loads(sys.stdin.buffer.read(VALUE_BYTES_MAX))
        except ValueError as error:
            raise usage(f"stdin is not JSON: {error}") from error
    answer = client_of(context).post("/essaim/kv/txn", body)
    if output == "json":
        click.echo(json.dumps(answer))
        return
    for line in result_lines(answer):
        click.echo(line)


@kv.command()
@click.argument("revision", type=click.IntRange(1))
@click.pass_context
def compact(context: click.Context, revision: int) -> None:
    """Forget the history up to REVISION: watches cannot begin there any more."""
    client_of(context).post("/essaim/kv/compact", {"Revision": revision})
    click.echo(str(revision))


@kv.command()
@output_option
@click.pass_context
def status(context: click.Context, output: str) -> None:
    """Show revision, size, quota and alarm."""
    found = client_of(context).get("/essaim/kv")
    if output == "json":
        click.echo(json.dumps(found))
        return
    click.echo(table(list(found), [[str(value) for value in found.values()]]))


@kv.group()
def lease() -> None:
    """Keys that go by themselves unless somebody keeps them."""


@lease.command()
@click.argument("ttl", type=click.IntRange(1), metavar="SECONDS")
@click.option("--id", "lease_id", default="", help="A hexadecimal number of your choice.")
@click.pass_context
def grant(context: click.Context, ttl: int, lease_id: str) -> None:
    """Make a lease; shows its id."""
    answer = client_of(context).post("/essaim/kv/leases", {"TTL": ttl, "ID": lease_id})
    click.echo(answer["ID"])


@lease.command("keep-alive")
@click.argument("lease_id", metavar="ID")
@click.option("--once", is_flag=True, help="Once, instead of until interrupted.")
@click.pass_context
def keep_alive(context: click.Context, lease_id: str, once: bool) -> None:
    """Keep a lease alive, until interrupted or until it is gone."""
    client = client_of(context)
    failures = 0
    ttl_s = KEEP_ALIVE_FRACTION
    while True:
        try:
            ttl_s = client.post(f"/essaim/kv/leases/{_identifier(lease_id)}/keepalive", {})["TTL"]
            failures = 0
            click.echo(f"lease {lease_id} lives for {ttl_s} s")
        except (ApiError, MasterUnreachable) as error:
            failures += 1
            if once or failures > RECONNECTS_MAX or not _may_pass(error):
                raise
        if once:
            return
        pace.pause(RECONNECT_PAUSE_S if failures else ttl_s / KEEP_ALIVE_FRACTION)


@lease.command()
@click.argument("lease_id", metavar="ID")
@click.pass_context
def revoke(context: click.Context, lease_id: str) -> None:
    """End a lease and delete its keys."""
    client_of(context).delete(f"/essaim/kv/leases/{_identifier(lease_id)}")
    click.echo(lease_id)


@lease.command()
@click.argument("lease_id", metavar="ID")
@output_option
@click.pass_context
def show(context: click.Context, lease_id: str, output: str) -> None:
    """Show the time that a lease has left, and its keys."""
    found = client_of(context).get(f"/essaim/kv/leases/{_identifier(lease_id)}")
    if output == "json":
        click.echo(json.dumps(found))
        return
    click.echo(f"{found['ID']}\t{found['Remaining']:.1f} of {found['TTL']} s")
    for key in found["Keys"]:
        click.echo(bytes_of(key))


@lease.command("ls")
@output_option
@click.pass_context
def list_leases(context: click.Context, output: str) -> None:
    """List leases."""
    found = client_of(context).get("/essaim/kv/leases")
    if output == "json":
        click.echo(json.dumps(found))
        return
    click.echo(table(["ID", "TTL"], [[item["ID"], str(item["TTL"])] for item in found]))


def _identifier(lease_id: str) -> str:
    if not (lease_id.isascii() and lease_id.isalnum()):
        raise usage(f"invalid lease {lease_id!r}: it is a hexadecimal number")
    return lease_id


def _pages(
    client: Client, query: dict[str, str], limit: int, revision: int, local: bool
) -> Iterator[list[Any]]:
    """All pages of one revision, up to `limit` keys."""
    if local:
        query["consistency"] = "local"
    whole, left = query, limit
    while True:
        page_limit = min(left, PAGE_LENGTH) if limit else PAGE_LENGTH
        asked = {"revision": str(revision), "limit": str(page_limit)}
        page = client.get("/essaim/kv/range", filters=None, **query, **asked)
        yield page["KVs"]
        left -= len(page["KVs"])
        if not page["More"] or (limit and left <= 0):
            return
        revision = page["Revision"]
        query = _after(whole, bytes_of(page["KVs"][-1]["Key"]))


def _after(query: dict[str, str], key: bytes) -> dict[str, str]:
    """The query for the rest of what `query` names, from the key after `key` on."""
    rest = {name: value for name, value in query.items() if name == "consistency"}
    prefix = query.get("prefix", "")
    first = base64.urlsafe_b64decode(prefix) if "base64" in query else argument_bytes(prefix)
    trimmed = first.rstrip(b"\xff")
    rest |= {"start": base64.urlsafe_b64encode(key + b"\0").decode(), "base64": "1"}
    if trimmed:
        end = trimmed[:-1] + bytes((trimmed[-1] + 1,))
        rest["end"] = base64.urlsafe_b64encode(end).decode()
    return rest


def _watch_lines(client: Client, query: dict[str, str], revision: int) -> Iterator[Any]:
    """The lines of a watch over as many connections as it takes."""
    failures = 0
    while True:
        try:
            for line in client.lines("/essaim/kv/watch", **query, revision=str(revision)):
                failures = 0
                if "Resume" in line:
                    revision = line["Resume"]
                    break
                revision = line["Revision"] + 1
                yield line
        except (ApiError, MasterUnreachable) as error:
            failures += 1
            if failures > RECONNECTS_MAX or revision == 0 or not _may_pass(error):
                raise
        pace.pause(RECONNECT_PAUSE_S)


def _may_pass(error: CommandFailed) -> bool:
    """A master that is not there or has no leader may be back soon."""
    return isinstance(error, MasterUnreachable) or (
        isinstance(error, ApiError) and error.status == 503
    )
