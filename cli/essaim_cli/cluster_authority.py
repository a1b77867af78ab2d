"""`essaim cluster join-token` and `ca`: what lets machines in, and who signs their certificates."""

import json
from typing import Any, Final
from urllib.parse import quote

import click

from essaim_cli.client import Client, client_of
from essaim_cli.errors import CommandFailed
from essaim_cli.formatting import table
from essaim_cli.pace import pause

PROGRESS_PERIOD_S: Final = 0.5
WAITING_HEADINGS: Final = ("KIND", "NAME", "HOSTNAME", "STATE", "CERTIFICATE UNTIL")
STEPS: Final = {
    "introducing": "every process gets to know the new authority",
    "renewing": "every process gets a certificate by the new authority",
    "settled": "the authority is believed alone",
}


@click.command("join-token")
@click.argument("role", type=click.Choice(["worker", "master"]))
@click.option("--rotate", is_flag=True, help="Replace it: the one before lets nobody in any more.")
@click.option("-q", "--quiet", is_flag=True, help="The token alone.")
@click.pass_context
def join_token(context: click.Context, role: str, rotate: bool, quiet: bool) -> None:
    """Show the token with which a machine joins."""
    client = client_of(context)
    if rotate:
        tokens = client.post("/essaim/cluster/join-tokens/rotate", {"Roles": [role]})
    else:
        tokens = client.get("/essaim/cluster/join-tokens")
    token = tokens[role.capitalize()]
    if quiet:
        click.echo(token)
        return
    if rotate:
        click.echo(f"The {role}'s token is replaced.\n")
    flag = "--master " if role == "master" else ""
    click.echo(f"To add a {role}, run on it:\n")
    click.echo(f"    essaim cluster join {flag}--token {token} {_address(client)}")


@click.command()
@click.option("--rotate", is_flag=True, help="Replace the authority, while everything works on.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait until the rotation has ended.")
@click.option("--certificates", is_flag=True, help="What is believed, PEM.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@click.pass_context
def ca(context: click.Context, rotate: bool, detach: bool, certificates: bool, output: str) -> None:
    """Show the cluster's certificate authority, and whom a rotation of it waits for.

    A rotation waits for every node and master, also for those that are down: they are named, and
    `essaim node rm` lets it go on without one.
    """
    client = client_of(context)
    if rotate:
        found = client.post("/essaim/cluster/ca/rotate", {})
        if not detach:
            found = _followed(client, found)
    else:
        found = client.get("/essaim/cluster/ca")
    if output == "json":
        click.echo(json.dumps(found))
    elif certificates:
        click.echo(found["Certificates"], nl=False)
    else:
        click.echo(_text(found))


def _followed(client: Client, found: Any) -> Any:
    """Until the rotation has ended and everybody knows; progress goes to stderr. Ctrl-C ends the
    watching alone.

    The certificate with which this command asks is one of the authority that goes: it is renewed
    as soon as the new one signs.
    """
    said, is_renewed = "", client.identity is None
    while found["Step"] != "settled" or found["WaitingCount"]:
        if found["Step"] == "renewing" and not is_renewed:
            _renew_own(client)
            is_renewed = True
        names = ", ".join(row["Hostname"] or row["Name"] for row in found["Waiting"][:5])
        line = f"{found['Step']}: {found['WaitingCount']} of {found['Identities']} to go"
        if names:
            line += f" ({names}{', …' if found['WaitingCount'] > 5 else ''})"
        if line != said:
            click.echo(line, err=True)
            said = line
        pause(PROGRESS_PERIOD_S)
        found = client.get("/essaim/cluster/ca")
    return found


def _renew_own(client: Client) -> None:
    """The user's certificate, in its directory. Raises ApiError, CommandFailed."""
    from essaim_shared.errors import EssaimError
    from essaim_shared.trust.certificates import new_request
    from essaim_shared.trust.identity import ABOUT_FILE, read_identity, write_authorities, write_own

    directory = client.identity
    if directory is None or not (directory / ABOUT_FILE).exists():
        return  # of another kind: its owner renews it
    try:
        name = read_identity(directory).about.name
        asked = new_request(name)
        body = {"Request": asked.request_pem.decode()}
        issued = client.post(f"/essaim/users/{quote(name, safe='')}/certificate", body)
        write_authorities(directory, issued["Authorities"].encode())
        write_own(directory, asked.key_pem + issued["Certificate"].encode())
    except (EssaimError, OSError) as error:
        raise CommandFailed(f"the certificate in {directory} is not renewed: {error}") from error
    client.show_new_certificate()
    click.echo(f"the certificate in {directory} is renewed", err=True)


def _text(found: Any) -> str:
    lines = [
        f"Digest:      {found['Digest']}",
        f"Rotation:    {found['Step']}: {STEPS[found['Step']]}",
        f"Identities:  {found['Identities']}",
    ]
    others = [digest for digest in found["Believed"] if digest != found["Digest"]]
    lines += [f"Believed too: {digest}" for digest in others]
    if found["WaitingCount"]:
        rows = [
            (
                row["Role"],
                row["Name"],
                row["Hostname"],
                row["State"],
                row["ExpiresAt"][:19],
            )
            for row in found["Waiting"]
        ]
        lines += ["", f"{found['WaitingCount']} have not confirmed this step yet:"]
        lines.append(table(WAITING_HEADINGS, rows))
    return "\n".join(lines)


def _address(client: Client) -> str:
    """Of a master that leads, or any. Raises CommandFailed."""
    members = [row for row in client.get("/essaim/cluster/members") if not row["Removed"]]
    for row in sorted(members, key=lambda row: not row["Leader"]):
        return str(row["HTTPAddr"])
    raise CommandFailed("no master is known: see essaim cluster members ls")
