"""Carries the rules of `firewall` out with nft and iptables; blocks its thread."""

import subprocess
from collections.abc import Iterable

from essaim_agent.network import NetworkError
from essaim_agent.overlay.firewall import TABLE, accept_script, translation_script

COMMAND_TIMEOUT_S = 20.0
"""Another program can hold iptables' lock for long when it loads thousands of rules."""

ERROR_CHARS_MAX = 300


class PacketFilter:
    """Remembers what it loaded last, and how the kernel listed it then."""

    def __init__(self) -> None:
        self._loaded_script = ""
        self._loaded_listing = ""

    def apply(self, subnets: Iterable[str], check: bool) -> bool:
        """Make the rules fit the subnets; with `check`, look in the kernel even if they should.

        True when something had to be changed. Raises NetworkError.
        """
        script = translation_script(subnets)
        is_changed = script != self._loaded_script
        if not is_changed and not check:
            return False
        if is_changed or self._listing() != self._loaded_listing:
            _run(["nft", "-f", "-"], script)
            self._loaded_script = script
            self._loaded_listing = self._listing()
            is_changed = True
        has_subnets = "masquerade" in script
        changes = accept_script(_run(["iptables-save", "-t", "filter"]), has_subnets)
        if changes:
            _run(["iptables-restore", "--noflush", "--wait", "5"], changes)
        return is_changed or bool(changes)

    def _listing(self) -> str:
        """Our table without its counters; empty when there is none."""
        completed = _completed(["nft", "-s", "list", "table", "ip", TABLE])
        return completed.stdout if completed.returncode == 0 else ""


def _run(command: list[str], given: str = "") -> str:
    completed = _completed(command, given)
    if completed.returncode != 0:
        complaint = " ".join(completed.stderr.split())[:ERROR_CHARS_MAX]
        raise NetworkError(f"{' '.join(command)} failed ({completed.returncode}): {complaint}")
    return completed.stdout


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
