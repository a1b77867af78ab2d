"""Dropping what enters or leaves one host of a lab at chosen ports, by a table of its own."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Literal

from essaim_cli.lab.external import run_command
from essaim_cli.lab.topology import Host

TABLE = "essaim_test_drop"

Direction = Literal["input", "output"]


@asynccontextmanager
async def dropped(
    host: Host, ports: Iterable[int], directions: Iterable[Direction] = ("input", "output")
) -> AsyncIterator[None]:
    """While inside, TCP packets from and to these ports are lost without a word.

    A connection has the port at one end only, so both ends are matched: either may have dialled.
    """
    numbers = ", ".join(str(port) for port in ports)
    chains = "".join(
        f"  chain {direction} {{\n"
        f"    type filter hook {direction} priority -300;\n"
        f"    tcp sport {{ {numbers} }} drop\n"
        f"    tcp dport {{ {numbers} }} drop\n"
        f"  }}\n"
        for direction in directions
    )
    inside = ["nsenter", f"--net={host.namespace_path}", "nft"]
    await run_command([*inside, "-f", "-"], input_text=f"table ip {TABLE} {{\n{chains}}}\n")
    try:
        yield
    finally:
        await run_command([*inside, "delete", "table", "ip", TABLE])
