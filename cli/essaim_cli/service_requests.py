"""Creating and changing services so that a lost connection changes nothing twice.

A create is known by its name, which is drawn here when the user gave none; an update by the
version that it replaces. When a connection breaks in the middle, another master is asked what
became of the change before it is sent again.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any

import click

from essaim_cli.client import Client
from essaim_cli.converge import get_patiently
from essaim_cli.errors import ApiError, BrokenOff, CommandFailed
from essaim_cli.grammar.ports import host_mode_flag, ingress_ports
from essaim_cli.service_networks import with_ids_in
from essaim_cli.service_spec import Spec, is_stored
from essaim_shared.random_name import random_name

ATTEMPTS_MAX = 8
"""Of a change that others or lost masters get in the way of."""
NAME_DRAWS_MAX = 20
CONFLICT = 409
NOT_FOUND = 404

Change = Callable[[Spec, Spec | None], Spec]
"""From the present spec, and the one that was read first when this is not the first attempt."""


def create_service(client: Client, spec: Spec, headers: Mapping[str, str], **query: str) -> Any:
    """The master's answer, with the new service's ID."""
    if spec["Name"]:
        return _create_named(client, spec, headers, query)
    rng = random.Random()
    for draws_left in reversed(range(NAME_DRAWS_MAX)):
        drawn = {**spec, "Name": random_name(rng)}
        try:
            return _create_named(client, drawn, headers, query)
        except ApiError as error:
            if error.status != CONFLICT or not draws_left:
                raise
    raise AssertionError("the last draw returns or raises")


def _create_named(
    client: Client, spec: Spec, headers: Mapping[str, str], query: Mapping[str, str]
) -> Any:
    was_broken_off = False
    for attempts_left in reversed(range(ATTEMPTS_MAX)):
        try:
            return client.post("/services/create", spec, headers=headers, **query)
        except BrokenOff:
            if not attempts_left:
                raise
            was_broken_off = True
        except ApiError as error:
            if error.status == CONFLICT and was_broken_off:
                return _found_created(client, spec, error)
            raise with_hint(error, spec) from error
    raise AssertionError("the last attempt returns or raises")


def _found_created(client: Client, spec: Spec, conflict: ApiError) -> Any:
    """The service that an earlier attempt made, though its answer was lost."""
    found = get_patiently(client, f"/services/{spec['Name']}")
    if found["Spec"]["Name"] != spec["Name"]:
        raise conflict
    if not is_stored(found["Spec"], with_ids_in(client, spec)):
        raise conflict
    return {"ID": found["ID"]}


def update_service(
    client: Client,
    name: str,
    change: Change,
    headers_of: Callable[[Spec], Mapping[str, str]] | None = None,
    **query: str,
) -> str:
    """Read, change, write back; again when somebody else wrote in between. Returns the id."""
    first_seen: Spec | None = None
    sent: Spec | None = None
    for attempts_left in reversed(range(ATTEMPTS_MAX)):
        present = get_patiently(client, f"/services/{name}")
        if sent is not None and is_stored(present["Spec"], sent):
            return str(present["ID"])
        spec = change(present["Spec"], first_seen)
        first_seen, sent = first_seen or present["Spec"], None
        headers = headers_of(spec) if headers_of else {}
        path = f"/services/{present['ID']}/update"
        version = str(present["Version"]["Index"])
        try:
            answer = client.post(path, spec, headers=headers, version=version, **query)
        except BrokenOff:
            sent = spec
            if not attempts_left:
                raise
        except ApiError as error:
            if "out of sequence" not in error.message or not attempts_left:
                raise with_hint(error, spec) from error
        else:
            show_warnings(answer)
            return str(present["ID"])
    raise AssertionError("the last attempt returns or raises")


def post_versioned(
    client: Client, name: str, path: Callable[[str], str], body: Any, **query: str
) -> str:
    """A request that names the version it is for, and is sent again with it when the connection
    broke: whoever finds the version gone then was heard the first time. Returns the id."""
    present = get_patiently(client, f"/services/{name}")
    version = str(present["Version"]["Index"])
    was_broken_off = False
    for attempts_left in reversed(range(ATTEMPTS_MAX)):
        try:
            sent = present["Spec"] if body is None else body
            show_warnings(
                client.post(path(present["ID"]), sent, headers=None, version=version, **query)
            )
        except BrokenOff:
            was_broken_off = True
            if not attempts_left:
                raise
            continue
        except ApiError as error:
            if not (was_broken_off and "out of sequence" in error.message):
                raise
        return str(present["ID"])
    raise AssertionError("the last attempt returns or raises")


def show_warnings(answer: Any) -> None:
    for warning in (answer.get("Warnings") if isinstance(answer, Mapping) else None) or ():
        click.echo(f"Warning: {warning}", err=True)


def with_hint(error: ApiError, spec: Spec) -> CommandFailed:
    """An ingress port, which the short form of --publish asks for unsaid, refused because the
    service has no address to balance: with what to write instead."""
    ports = ingress_ports((spec.get("EndpointSpec") or {}).get("Ports") or [])
    if not ports or "dnsrr" not in error.message.lower():
        return error
    return ApiError(error.status, f"{error.message}; write {host_mode_flag(ports[0])}")
