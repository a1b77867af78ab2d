"""`essaim secret …`: Docker's commands, and `update`. Each is imported when it is used."""

import click

from essaim_cli.main import LazyGroup

_COMMANDS = "essaim_cli.payload_commands"


@click.command(
    cls=LazyGroup,
    lazy={
        "create": (f"{_COMMANDS}:create_secret", "Create a secret from a file or standard input"),
        "inspect": (f"{_COMMANDS}:inspect_secrets", "Show secrets, but not what is in them"),
        "ls": (f"{_COMMANDS}:list_secrets", "List secrets"),
        "rm": (f"{_COMMANDS}:remove_secrets", "Remove one or more secrets"),
        "update": (f"{_COMMANDS}:update_secret", "Give a secret newer data"),
    },
    aliases={"list": "ls", "remove": "rm"},
)
def secret() -> None:
    """Manage secrets."""
