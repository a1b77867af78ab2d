"""`essaim config …`: Docker's commands, and `update`. Each is imported when it is used."""

import click

from essaim_cli.main import LazyGroup

_COMMANDS = "essaim_cli.payload_commands"


@click.command(
    cls=LazyGroup,
    lazy={
        "create": (f"{_COMMANDS}:create_config", "Create a config from a file or standard input"),
        "inspect": (f"{_COMMANDS}:inspect_configs", "Show configs with their data"),
        "ls": (f"{_COMMANDS}:list_configs", "List configs"),
        "rm": (f"{_COMMANDS}:remove_configs", "Remove one or more configs"),
        "update": (f"{_COMMANDS}:update_config", "Give a config newer data"),
    },
    aliases={"list": "ls", "remove": "rm"},
)
def config() -> None:
    """Manage configs: files that are no secret."""
