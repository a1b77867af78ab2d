"""`essaim service …`: Swarm's commands. Each is imported when it is used."""

import click

from essaim_cli.main import LazyGroup

_CHANGES = "essaim_cli.service_changes"
_LISTS = "essaim_cli.service_lists"


@click.command(
    cls=LazyGroup,
    lazy={
        "create": (f"{_CHANGES}:create", "Create a service"),
        "history": (f"{_LISTS}:history", "List the revisions of a service that are kept"),
        "inspect": (f"{_LISTS}:inspect", "Show services in full"),
        "ls": (f"{_LISTS}:list_services", "List services"),
        "promote": (f"{_CHANGES}:promote", "Let an update in steps go on to its next step"),
        "ps": (f"{_LISTS}:ps", "List the tasks of one or more services"),
        "rm": (f"{_LISTS}:remove", "Remove one or more services"),
        "rollback": (f"{_CHANGES}:rollback", "Go back to what a service was before"),
        "runs": (f"{_LISTS}:runs", "List the runs of a job with a schedule"),
        "scale": (f"{_CHANGES}:scale", "Set the number of tasks of one or more services"),
        "update": (f"{_CHANGES}:update", "Change a service"),
    },
    aliases={"list": "ls", "remove": "rm"},
)
def service() -> None:
    """Manage services."""
