"""Kernel settings of a task's namespace: which ones it gets, and which it may ask for. Pure."""

import re
from collections.abc import Iterable, Mapping

from essaim_agent.network import NetworkError

DEFAULT_SYSCTLS: Mapping[str, str] = {
    # Interfaces made from here on get no IPv6; ::1 on the loopback device stays.
    "net.ipv6.conf.default.disable_ipv6": "1",
    # As Docker sets them for its own namespaces (since 20.10).
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}

_NETWORK_SYSCTL = re.compile(r"net(\.[A-Za-z0-9_-]+)+")


def check_sysctls(names: Iterable[str]) -> None:
    """Only those of the task's own network are taken: anything else would change the whole host.

    The kernel itself hides from a namespace the `net.*` that are not the namespace's own.
    Raises NetworkError.
    """
    for name in names:
        if not _NETWORK_SYSCTL.fullmatch(name):
            raise NetworkError(f"sysctl {name} is refused: only net.* belongs to a task alone")
