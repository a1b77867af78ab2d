"""`essaim network …`: Docker's commands. Each is imported when it is used."""

import click

from essaim_cli.main import LazyGroup

_COMMANDS = "essaim_cli.network_commands"


@click.command(
    cls=LazyGroup,
    lazy={
        "create": (f"{_COMMANDS}:create", "Create a network"),
        "inspect": (f"{_COMMANDS}:inspect", "Show networks in full"),
        "ls": (f"{_COMMANDS}:list_networks", "List networks"),
        "rm": (f"{_COMMANDS}:remove", "Remove one or more networks"),
    },
    aliases={"list": "ls", "remove": "rm"},
)
def network() -> None:
    """Manage networks."""
