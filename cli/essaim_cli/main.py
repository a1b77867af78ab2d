"""The root command and its lazily imported subcommands."""

import importlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import click

HELP_CHARS_MAX = 80


class LazyGroup(click.Group):
    """A group that imports a subcommand's module only when that subcommand is used or asked for
    by name; the one-line helps stand here, so that `--help` imports nothing. `aliases` are other
    names of subcommands, which work without being listed. Commands may be added as to any group.
    """

    def __init__(
        self,
        *args: object,
        lazy: dict[str, tuple[str, str]],
        aliases: Mapping[str, str] = MappingProxyType({}),
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._lazy = lazy
        self._aliases = aliases

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*self._lazy, *self.commands})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        name = self._aliases.get(name, name)
        if name not in self._lazy:
            return super().get_command(context, name)
        module, _, attribute = self._lazy[name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        rows: Sequence[tuple[str, str]] = [
            (name, self._help_of(name)) for name in self.list_commands(context)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _help_of(self, name: str) -> str:
        if name in self._lazy:
            return self._lazy[name][1]
        return self.commands[name].get_short_help_str(HELP_CHARS_MAX)


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["--help"], "max_content_width": 100},
    lazy={
        "audit": ("essaim_cli.audit:audit", "Show who changed what"),
        "cluster": ("essaim_cli.cluster:cluster", "Manage the masters and what they keep"),
        "config": ("essaim_cli.config:config", "Manage configs: files that are no secret"),
        "context": ("essaim_cli.context:context", "Manage contexts: clusters by name"),
        "info": ("essaim_cli.system:info", "Show the cluster as a master sees it"),
        "kv": ("essaim_cli.kv:kv", "Keep keys and values of your own"),
        "lab": ("essaim_cli.lab.commands:lab", "Raise a whole cluster on this machine"),
        "net": ("essaim_cli.net:net", "Look into the network between containers"),
        "network": ("essaim_cli.network:network", "Manage networks"),
        "node": ("essaim_cli.node:node", "Manage nodes"),
        "raft": ("essaim_cli.raft:raft", "Look into the consensus of the masters"),
        "secret": ("essaim_cli.secret:secret", "Manage secrets"),
        "service": ("essaim_cli.service:service", "Manage services"),
        "stack": ("essaim_cli.stack:stack", "Manage stacks: what one compose file describes"),
        "top": ("essaim_cli.top:top", "Show what nodes and tasks use"),
        "user": ("essaim_cli.user:user", "Manage users: roles, tokens and certificates"),
        "version": ("essaim_cli.system:version", "Show the versions of client and master"),
    },
)
@click.option(
    "-H",
    "--host",
    metavar="URL",
    envvar="ESSAIM_HOST",
    help="Master to talk to: unix:///PATH or tcp://HOST:PORT; or several, with commas.",
)
@click.option(
    "--context",
    "context_name",
    metavar="NAME",
    envvar="ESSAIM_CONTEXT",
    help="Cluster to talk to, by its name (essaim context); --host counts before it.",
)
@click.option(
    "--identity",
    metavar="DIRECTORY",
    envvar="ESSAIM_IDENTITY",
    help="Certificate and key to show to a master over TCP; or Docker's DOCKER_CERT_PATH.",
)
@click.pass_context
def cli(
    context: click.Context, host: str | None, context_name: str | None, identity: str | None
) -> None:
    """Essaim: run containers on a few to a few thousand machines."""
    context.obj = host
