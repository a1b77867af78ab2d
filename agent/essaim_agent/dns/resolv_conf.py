"""The name servers of resolv.conf(5). Pure."""

import ipaddress
from typing import Final

SERVERS_MAX: Final = 3
"""As the C library counts (MAXNS)."""


def name_servers(text: str) -> tuple[str, ...]:
    """Addresses, in their order. What is no address is left out, as the C library does."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver" and _is_address(words[1]):
            found.append(words[1])
    return tuple(dict.fromkeys(found))[:SERVERS_MAX]


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True
