"""Holds our nft tables in the kernel, and lets the overlay through iptables. Blocking."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

from essaim_agent.network import NetworkError
from essaim_agent.overlay.firewall import accept_script
from essaim_agent.overlay.nft import Nftables, next_generation
from essaim_agent.overlay.nft_table import (
    Table,
    differences,
    increment,
    listed_elements,
    whole,
)

COMMAND_TIMEOUT_S = 20.0
"""Another program can hold iptables' lock for long when it loads thousands of rules."""

ERROR_CHARS_MAX = 300

DIFFERENCES_MAX = 16
"""Of one table, in words."""


class RuleTables:
    """The nft tables of ours: as loaded last, and how the kernel listed them then.

    A listing is compared only with another: nft prints rules otherwise than they are written, and
    each version in its own way.
    """

    def __init__(self) -> None:
        self._nft = Nftables()
        self._held: dict[str, Table] = {}
        self._listed: dict[str, str] = {}

    def close(self) -> None:
        self._nft.close()

    def apply(self, wanted: Iterable[Table]) -> bool:
        """Make the kernel hold these tables, all that changes in one transaction; True when
        something did. Whatever an earlier run left is replaced. Raises NetworkError."""
        tables = {table.name: table for table in wanted}
        scripts = {
            name: increment(self._held[name], table) if name in self._held else whole(table)
            for name, table in tables.items()
        }
        changed = [name for name, script in scripts.items() if script]
        if not changed:
            return False
        try:
            self._nft.run("".join(scripts[name] for name in changed))
        except NetworkError:
            # Somebody changed a table, so that the increment does not fit.
            self._nft.run("".join(whole(tables[name]) for name in changed))
        for name in changed:
            self._held[name] = tables[name]
            self._listed.pop(name, None)
        return True

    def was_loaded(self, name: str) -> bool:
        """There is such a table in the kernel, perhaps of an earlier run."""
        return bool(self._nft.listing(name))

    def loaded_elements(self, name: str, set_name: str) -> frozenset[str]:
        """What a set of a table in the kernel holds, perhaps of an earlier run."""
        return listed_elements(self._nft.listing(name), set_name)

    @property
    def is_disturbed(self) -> bool:
        """Somebody changed some table since the last check: three system calls."""
        return self._nft.is_disturbed

    def own_other_change(self) -> None:
        """iptables changed something for us, which is not to be taken for somebody's damage."""
        self._nft.own()

    def check(self) -> tuple[str, ...]:
        """Compare, mend, and tell the differences. Raises NetworkError.

        As long as the kernel's generation moves with our own changes only, nobody else made any.
        A table that we changed since it was listed cannot be compared: it is loaded anew, which
        hurts nobody, and then its listings before and after are.
        """
        if not self._nft.is_disturbed:
            return ()
        generation = self._nft.generation()
        found: list[str] = []
        for name, table in self._held.items():
            listing = self._nft.listing(name)
            if listing != self._listed.get(name):
                self._nft.run(whole(table))
                generation = next_generation(generation)
                right = self._nft.listing(name)
                found += differences(listing, right, name, DIFFERENCES_MAX)
                self._listed[name] = right
        self._nft.settle(generation)
        return tuple(found)


class AcceptRules:
    """Ours in the chains of others."""

    def __init__(self) -> None:
        self._is_set: bool | None = None
        """None: not looked yet."""

    def apply(self, is_wanted: bool, check: bool) -> bool:
        """With `check`, look in the kernel even if they should be there. True when something had
        to be changed. Raises NetworkError."""
        if is_wanted == self._is_set and not check:
            return False
        changes = accept_script(_run(["iptables-save", "-t", "filter"]), is_wanted)
        if changes:
            _run(["iptables-restore", "--noflush", "--wait", "5"], changes)
        self._is_set = is_wanted
        return bool(changes)


def have_bridged_packets_filtered() -> None:
    """Load the module without which bridged packets do not pass the tables. Raises NetworkError."""
    if not Path("/proc/sys/net/bridge").exists():
        _run(["modprobe", "br_netfilter"])


def _run(command: list[str], given: str = "") -> str:
    try:
        completed = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise NetworkError(f"{command[0]} is not installed; the overlay needs it") from error
    except OSError as error:
        raise NetworkError(f"{command[0]} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise NetworkError(f"{command[0]} did not end within {COMMAND_TIMEOUT_S:g} s") from error
    if completed.returncode != 0:
        complaint = " ".join(completed.stderr.split())[:ERROR_CHARS_MAX]
        raise NetworkError(f"{' '.join(command)} failed ({completed.returncode}): {complaint}")
    return completed.stdout
