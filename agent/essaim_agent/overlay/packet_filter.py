"""Carries the rules of `firewall` and `host_ports` out with nft, iptables, bridge and conntrack.

Everything here blocks its thread.
"""

import subprocess
from collections.abc import Iterable

from essaim_agent.network import NetworkError
from essaim_agent.overlay import firewall, host_ports
from essaim_agent.overlay.firewall import accept_script, translation_script
from essaim_agent.overlay.host_ports import PublishedTask, ports_script

COMMAND_TIMEOUT_S = 20.0
"""Another program can hold iptables' lock for long when it loads thousands of rules."""

ERROR_CHARS_MAX = 300

CONNTRACK_NONE_FOUND = 1
"""Its exit code when no entry matched."""


class _Table:
    """One nft table of ours: what was loaded last, and how the kernel listed it then."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.loaded = ""
        """The script; empty before the first."""
        self._listed = ""

    def load(self, script: str, check: bool) -> bool:
        """Make the kernel hold the script's table; with `check`, look even if it should already.
        True when something had to be changed."""
        is_changed = script != self.loaded
        if not is_changed and not (check and self._listing() != self._listed):
            return False
        _run(["nft", "-f", "-"], script)
        self.loaded = script
        self._listed = self._listing()
        return True

    def _listing(self) -> str:
        """The table without its counters; empty when there is none."""
        completed = _completed(["nft", "-s", "list", "table", "ip", self._name])
        return completed.stdout if completed.returncode == 0 else ""


class PacketFilter:
    """The rules around the overlay."""

    def __init__(self) -> None:
        self._table = _Table(firewall.TABLE)

    def apply(self, subnets: Iterable[str], check: bool) -> bool:
        """Make the rules fit the subnets; with `check`, look in the kernel even if they should.

        True when something had to be changed. Raises NetworkError.
        """
        script = translation_script(subnets)
        is_changed = script != self._table.loaded
        if not is_changed and not check:
            return False
        is_changed = self._table.load(script, check)
        has_subnets = "masquerade" in script
        changes = accept_script(_run(["iptables-save", "-t", "filter"]), has_subnets)
        if changes:
            _run(["iptables-restore", "--noflush", "--wait", "5"], changes)
        return is_changed or bool(changes)


class PortFilter:
    """The published ports of a node."""

    def __init__(self) -> None:
        self._table = _Table(host_ports.TABLE)

    def apply(
        self, published: Iterable[PublishedTask], subnets: Iterable[str], check: bool
    ) -> bool:
        """True when something had to be changed. Raises NetworkError."""
        return self._table.load(ports_script(published, subnets), check)


def let_reflect(devices: Iterable[str]) -> None:
    """Let a bridge send a frame back to the port it came from: a task that calls its own node on
    its own port is answered by itself, within one bridge."""
    for device in devices:
        _run(["bridge", "link", "set", "dev", device, "hairpin", "on"])


def forget_flows(udp_ports: Iterable[int]) -> None:
    """Let clients that keep talking to a UDP port be looked at anew: the kernel takes their
    packets for one endless connection to the task that had the port before."""
    for number in udp_ports:
        command = ["conntrack", "-D", "-p", "udp", "--orig-port-dst", str(number)]
        completed = _completed(command)
        if completed.returncode not in (0, CONNTRACK_NONE_FOUND):
            raise _failure(command, completed)


def _run(command: list[str], given: str = "") -> str:
    completed = _completed(command, given)
    if completed.returncode != 0:
        raise _failure(command, completed)
    return completed.stdout


def _failure(command: list[str], completed: subprocess.CompletedProcess[str]) -> NetworkError:
    complaint = " ".join(completed.stderr.split())[:ERROR_CHARS_MAX]
    return NetworkError(f"{' '.join(command)} failed ({completed.returncode}): {complaint}")


def _completed(command: list[str], given: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
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
