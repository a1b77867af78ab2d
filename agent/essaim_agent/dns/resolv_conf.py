"""The name servers of resolv.conf(5). Pure."""

import ipaddress
from collections.abc import Iterable
from typing import Final

SERVERS_MAX: Final = 3
"""As the C library counts (MAXNS)."""


def name_servers(text: str) -> tuple[str, ...]:
    """Addresses, in their order."""
    lines = (line.split() for line in text.splitlines())
    return addresses_of(words[1] for words in lines if len(words) >= 2 and words[0] == "nameserver")


def addresses_of(servers: Iterable[str]) -> tuple[str, ...]:
    """What is no address is left out, as the C library does."""
    return tuple(dict.fromkeys(filter(_is_address, servers)))[:SERVERS_MAX]


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True
