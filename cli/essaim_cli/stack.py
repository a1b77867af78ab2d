"""`essaim stack …`: Docker's commands for compose files. Each is imported when it is used."""

import click

from essaim_cli.main import LazyGroup

_LISTS = "essaim_cli.stack_lists"


@click.command(
    cls=LazyGroup,
    lazy={
        "config": ("essaim_cli.stack_deploy:config", "Show what compose files say together"),
        "deploy": ("essaim_cli.stack_deploy:deploy", "Make a stack, or change it"),
        "ls": (f"{_LISTS}:list_stacks", "List stacks"),
        "ps": (f"{_LISTS}:ps", "List the tasks of a stack"),
        "rm": ("essaim_cli.stack_removal:remove", "Remove one or more stacks"),
        "services": (f"{_LISTS}:services", "List the services of a stack"),
    },
    aliases={"down": "rm", "list": "ls", "remove": "rm", "up": "deploy"},
)
def stack() -> None:
    """Manage stacks: the services and networks of compose files."""
