"""`essaim lab`: the commands. Words go to stderr, tables to stdout."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import click

from essaim_cli.errors import CommandFailed
from essaim_cli.lab.demo import deploy, fetch_pages, next_steps
from essaim_cli.lab.driver import HostStatus, Lab, Wanted
from essaim_cli.lab.errors import LabError
from essaim_cli.lab.state import roots
from essaim_cli.lab.topology import PARTS, Host, PartName
from essaim_shared.clock import SystemClock

Result = TypeVar("Result")

_SIGNALS = ("KILL", "TERM", "INT", "STOP", "CONT", "HUP")

name_option = click.option(
    "--name", default="lab", show_default=True, metavar="NAME", help="Which lab."
)
host_argument = click.argument("host")
part_choice = click.Choice([*PARTS])


@click.group()
def lab() -> None:
    """A cluster of many hosts on this one machine.

    Each host is a network namespace with its own Docker Engine and agent and, on the first ones,
    nats-server and master.
    """


@lab.command()
@click.option("--hosts", default=3, show_default=True, help="How many hosts.")
@click.option("--masters", default=3, show_default=True, help="How many run a master: 1, 3 or 5.")
@click.option(
    "--standbys", default=0, show_default=True, help="How many further hosts have one standing by."
)
@click.option(
    "--executor",
    type=click.Choice(["auto", "docker", "process"]),
    default="auto",
    show_default=True,
    help="auto: engines where they can run, else plain processes on loopback.",
)
@name_option
def up(
    hosts: int,
    masters: int,
    standbys: int,
    executor: Literal["docker", "process", "auto"],
    name: str,
) -> None:
    """Raise a lab, or complete one that is up."""
    clock = SystemClock()
    start_s = clock.monotonic_s()
    topology = _run(_lab().up(Wanted(name, hosts, masters, executor, standbys)))
    took_s = clock.monotonic_s() - start_s
    where = (
        f"an engine each, 10.98.{topology.subnet_number}.0/24"
        if topology.executor == "docker"
        else "on loopback, tasks as plain processes"
    )
    _say(
        f"lab {name} is up after {took_s:.1f} s: {_count(len(topology.hosts), 'host')} ({where}), "
        f"{_count(len(topology.masters), 'master')}"
    )


@lab.command()
@name_option
def demo(name: str) -> None:
    """Run a small web service and fetch a page from each replica."""

    async def show() -> str:
        topology = _lab().topology(name)
        await deploy(topology)
        _say("")
        await fetch_pages(topology, SystemClock(), click.echo)
        return next_steps(topology)

    _say("\n" + _run(show()))


@lab.command()
@name_option
def down(name: str) -> None:
    """Remove every trace of a lab, also after a crash."""
    if _run(_lab().down(name)):
        _say(f"lab {name} is gone")
    else:
        _say(f"no lab {name} here: nothing to do")


@lab.command()
@name_option
def status(name: str) -> None:
    """Show what runs on each host."""
    rows = [_status_row(row) for row in _run(_lab().status(name))]
    header = ("HOST", "ADDRESS", "CABLE", "BUS", "ENGINE", "MASTER", "AGENT", "NODE")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("   ".join(cells).rstrip())


@lab.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@name_option
@host_argument
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def sh(name: str, host: str, command: tuple[str, ...]) -> None:
    """Run a shell, or COMMAND, on a host.

    It has the host's network; `docker` in it speaks to the host's engine.
    """
    found = _checked(lambda: _lab().topology(name).host(host))
    # Click leaves a `--` in place that stands after the first argument.
    words = list(command[1:] if command[:1] == ("--",) else command)
    _become(found, words or [os.environ.get("SHELL") or "/bin/sh"])


@lab.command()
@name_option
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
def cut(name: str, hosts: tuple[str, ...]) -> None:
    """Pull the network cable of hosts."""
    _run(_lab().set_cable(name, hosts, connected=False))


@lab.command()
@name_option
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
def heal(name: str, hosts: tuple[str, ...]) -> None:
    """Plug the network cable of hosts in again."""
    _run(_lab().set_cable(name, hosts, connected=True))


@lab.command()
@name_option
@click.option(
    "--signal",
    "signal_name",
    type=click.Choice(_SIGNALS, case_sensitive=False),
    default="KILL",
    show_default=True,
)
@host_argument
@click.argument("parts", nargs=-1, required=True, type=part_choice)
def kill(name: str, signal_name: str, host: str, parts: tuple[PartName, ...]) -> None:
    """End (or, with --signal STOP, freeze) processes of a host."""
    _run(_lab().kill(name, host, parts, signal.Signals[f"SIG{signal_name.upper()}"]))


@lab.command()
@name_option
@host_argument
@click.argument("parts", nargs=-1, type=part_choice)
def start(name: str, host: str, parts: tuple[PartName, ...]) -> None:
    """Start processes of a host (all of them without PARTS) and wait until they answer."""
    _run(_lab().start(name, host, parts))


def _lab() -> Lab:
    return Lab(roots(), SystemClock(), _say)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _say(line: str) -> None:
    click.echo(line, err=True)


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    return _checked(lambda: asyncio.run(work))


def _checked(work: Callable[[], Result]) -> Result:
    """Run `work`; an error that has a meaning ends the command with its one line."""
    try:
        return work()
    except LabError as error:
        raise CommandFailed(str(error)) from error


def _status_row(row: HostStatus) -> tuple[str, ...]:
    words = {part: state.word for part, state in row.parts.items()}
    if row.is_leader:
        words["master"] += " (leader)"
    return (
        row.host.name,
        row.host.address,
        "cut" if row.is_cut else "ok",
        *(words[part] for part in PARTS),
        row.node_state,
    )


def _become(host: Host, command: list[str]) -> NoReturn:
    """Replace this process by `command` in the host's network, engine and masters at hand."""
    variables = dict(os.environ)
    variables["ESSAIM_LAB_HOST"] = host.name
    if "engine" in host.parts:
        variables["DOCKER_HOST"] = f"unix://{host.engine_socket}"
    if "master" in host.parts:
        variables["ESSAIM_HOST"] = f"unix://{host.master_socket}"
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables.get('PATH', os.defpath)}"
    if host.executor == "docker":
        command = ["nsenter", f"--net={host.namespace_path}", *command]
    try:
        os.execvpe(command[0], command, variables)
    except OSError as failure:
        raise CommandFailed(f"cannot run {command[0]}: {failure.strerror}") from failure
