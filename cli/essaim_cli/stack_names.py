"""What the commands of stacks share: the stack's name, its label, its route. Pure."""

from collections.abc import Mapping
from urllib.parse import quote

from essaim_cli.errors import CommandFailed

NAMESPACE_LABEL = "com.docker.stack.namespace"


def check_stack_name(name: str) -> None:
    """As Docker's client: neither empty nor made of blanks and quotes. The masters say the rest.
    Raises CommandFailed."""
    if not name.strip(" \t\r\n\v\f\"'"):
        raise CommandFailed(f'invalid stack name: "{name}"')


def stack_path(name: str) -> str:
    return f"/essaim/stacks/{quote(name, safe='')}"


def stack_filters(name: str, given: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Those of the command, and the stack's label."""
    labels = [*given.get("label", ()), f"{NAMESPACE_LABEL}={name}"]
    return {**given, "label": labels}
