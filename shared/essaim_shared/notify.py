"""Telling systemd how a daemon is (sd_notify(3)): ready, stopping, alive, one line of status."""

import socket
from collections.abc import Mapping
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
WATCHDOG: Final = "WATCHDOG=1"


def status(text: str) -> str:
    """Shown by `systemctl status`; one line."""
    return "STATUS=" + text.replace("\n", " ")


def notify(environment: Mapping[str, str], *states: str) -> bool:
    """Send `states` to the service manager; False when none asked for them.

    Raises OSError when one asked and does not listen: a unit that says so but does not get its
    READY=1 would be killed at its start time-out, without a reason that anybody sees.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # Linux's abstract namespace; unix(7)
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)  # the event loop waits for nobody
        sender.sendto("\n".join(states).encode(), address)
    return True


def watchdog_period_s(environment: Mapping[str, str], pid: int) -> float | None:
    """How often to send WATCHDOG: half of what the unit allows; None when it asks for none."""
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    limit_us = environment.get("WATCHDOG_USEC", "")
    return int(limit_us) / 2e6 if limit_us.isdecimal() and int(limit_us) > 0 else None
