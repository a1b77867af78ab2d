"""What a flag of `service create` and `service update` can be, and the click option made of it.

The flags themselves are data (`service_flags`): both commands are made from one table, so that a
flag means the same in both. A bad value ends the command with Docker's sentence and exit code 125
before anything is sent.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from essaim_cli.errors import usage

Option = Callable[[Any], Any]
Given = Mapping[str, Any]
"""The values of a command's flags by parameter name; None or () where a flag was not given."""

CREATE, UPDATE = "create", "update"
BOTH = (CREATE, UPDATE)

CLEARED = object()
"""The value of a flag that was given as `""` to take the setting back."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A flag with one value, which replaces what was there."""

    name: str
    help: str
    parse: Callable[[str], Any] = str
    path: str = ""
    """Where the value stands in the service's spec; empty for flags with code of their own."""
    short: str = ""
    metavar: str = "TEXT"
    choices: tuple[str, ...] = ()
    on: tuple[str, ...] = BOTH
    can_clear: bool = False
    """An empty value takes the setting back: of what Docker does not know, since it has no other
    word for absent."""
    is_repeated: bool = False

    def options(self, command: str) -> list[Option]:
        type_ = _Parsed(self._read, self.name, self.short)
        metavar = "|".join(self.choices) if self.choices else self.metavar
        return [_option(self, type_, metavar, multiple=self.is_repeated)]

    def _read(self, text: str) -> Any:
        if self.can_clear and not text:
            return CLEARED
        if self.choices and text not in self.choices:
            raise ValueError(f"use {' or '.join(filter(None, self.choices))}")
        return self.parse(text)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A flag without a value; `--NAME=false` switches off what an update finds switched on."""

    name: str
    help: str
    path: str = ""
    short: str = ""
    on: tuple[str, ...] = BOTH

    def options(self, command: str) -> list[Option]:
        names = [f"-{self.short}"] if self.short else []
        return [click.option(*names, f"--{self.name}", is_flag=True, default=None, help=self.help)]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """A flag that can be repeated: `--NAME` of create, `--NAME-add` and `--NAME-rm` of update.

    What is removed goes first, so that one update can replace an item. An added item takes the
    place of the one with the same identity.
    """

    name: str
    noun: str
    """As in: add a NOUN."""
    parse: Callable[[str], list[Any]]
    path: str
    identity: Callable[[Any], str] = str
    short: str = ""
    metavar: str = "TEXT"
    removal_metavar: str = "KEY"
    parse_removal: Callable[[str], list[Any]] = lambda text: [text]
    remove: Callable[[list[Any], Any], list[Any]] | None = None
    """Takes a removal out of the items, where it is not merely an identity."""
    is_map: bool = False
    """The items are pairs, and stand in the spec as an object."""
    must_exist: bool = False
    duplicate: str = ""
    """What is said, before the identity, when one command gives two items of the same identity;
    empty: the last one wins."""
    on: tuple[str, ...] = BOTH

    def options(self, command: str) -> list[Option]:
        if command == CREATE:
            short, words = self.short, f"{self.noun[0].upper()}{self.noun[1:]}."
            type_ = _Parsed(self.parse, self.name, short)
            return [_option(self, type_, self.metavar, multiple=True, help_text=words)]
        add, remove = f"{self.name}-add", f"{self.name}-rm"
        return [
            click.option(
                f"--{add}",
                type=_Parsed(self.parse, add),
                multiple=True,
                metavar=self.metavar,
                help=f"Add or change: {self.noun}.",
            ),
            click.option(
                f"--{remove}",
                type=_Parsed(self.parse_removal, remove),
                multiple=True,
                metavar=self.removal_metavar,
                help=f"Remove: {self.noun}.",
            ),
        ]

    def without(self, items: list[Any], removal: Any) -> list[Any]:
        if self.remove is not None:
            return self.remove(items, removal)
        return [item for item in items if self.identity(item) != removal]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A flag that Docker has, or that users ask for, and that cannot be honoured: said, with the
    reason, instead of dropped."""

    name: str
    reason: str
    on: tuple[str, ...] = BOTH

    def options(self, command: str) -> list[Option]:
        words = f"Refused: {self.reason}."
        type_ = _Parsed(self._refuse, self.name)
        return [click.option(f"--{self.name}", type=type_, metavar="TEXT", help=words, hidden=True)]

    def _refuse(self, text: str) -> Any:
        raise ValueError(self.reason)


Flag = Value | Switch | Items | Refused


def parameter(name: str) -> str:
    """The name by which click hands a flag's value to the command."""
    return name.replace("-", "_")


def flag_options(flags: Iterable[Flag], command: str) -> Callable[[Any], Any]:
    """A decorator that gives a command all these flags."""

    def add_to(function: Any) -> Any:
        # What is added last comes first in the help.
        for flag in reversed(tuple(flags)):
            if command in flag.on:
                for option in reversed(flag.options(command)):
                    function = option(function)
        return function

    return add_to


def _option(
    flag: Value | Items, type_: "_Parsed", metavar: str, multiple: bool, help_text: str = ""
) -> Option:
    names = [f"-{flag.short}"] if flag.short else []
    text = help_text or (flag.help if isinstance(flag, Value) else "")
    return click.option(
        *names, f"--{flag.name}", type=type_, metavar=metavar, multiple=multiple, help=text
    )


class _Parsed(click.ParamType[Any]):
    """A type made of a parser that raises ValueError with a sentence for the user."""

    name = "value"

    def __init__(self, parse: Callable[[str], Any], flag: str, short: str = "") -> None:
        self._parse = parse
        self._shown = f"-{short}, --{flag}" if short else f"--{flag}"

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        try:
            return self._parse(value)
        except ValueError as error:
            raise usage(f'invalid argument "{value}" for "{self._shown}" flag: {error}') from error


class DockerCommand(click.Command):
    """A command whose switches also take `=true` and `=false`, as Go's do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        kept, switched_off = self._without_switch_values(ctx, args)
        rest = super().parse_args(ctx, kept)
        for name in switched_off:
            ctx.params[name] = False
        return rest

    def _without_switch_values(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[list[str], list[str]]:
        """The arguments with `--tty=true` as `--tty` and without `--tty=false`. What follows the
        image of a create, or `--`, belongs to others."""
        options = {name: option for option in self._options() for name in option.opts}
        kept: list[str] = []
        switched_off: list[str] = []
        waiting = list(args)
        while waiting:
            argument = waiting.pop(0)
            name, separator, value = argument.partition("=")
            option = options.get(name)
            if argument == "--" or (argument[:1] != "-" and not ctx.allow_interspersed_args):
                return [*kept, argument, *waiting], switched_off
            if option is not None and option.is_flag and separator:
                if not _go_boolean(value, name):
                    switched_off.append(str(option.name))
                    continue
                argument = name
            kept.append(argument)
            if waiting and not separator and _takes_next(argument, options):
                kept.append(waiting.pop(0))
        return kept, switched_off

    def _options(self) -> list[click.Option]:
        return [option for option in self.params if isinstance(option, click.Option)]


def _takes_next(argument: str, options: Mapping[str, click.Option]) -> bool:
    """Whether the next argument is this one's value: `--env A`, `-e A`, `-te A`, not `-eA`."""
    if argument.startswith("--"):
        option = options.get(argument)
        return option is not None and not option.is_flag
    for place, letter in enumerate(argument[1:], start=2):
        option = options.get(f"-{letter}")
        if option is not None and not option.is_flag:
            return place == len(argument)
    return False


def _go_boolean(text: str, flag: str) -> bool:
    """The words of Go's strconv.ParseBool."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise usage(f'invalid argument "{text}" for "{flag}" flag: write true or false')
