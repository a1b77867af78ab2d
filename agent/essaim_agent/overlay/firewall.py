"""The rules around the overlay: our own nft table, and what lets it through other people's. Pure.

Two places, because they work differently. In nft an `accept` of ours overrides nobody's `drop`,
so a FORWARD policy of DROP (set by Docker where it finds ip_forward=0, by ufw, by firewalld)
needs accept rules in that very chain: in DOCKER-USER where it is, as Docker asks of others, else
at the head of FORWARD. Address translation needs no such thing and stays in a table of our own,
replaced whole and atomically.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from essaim_agent.overlay.tables import BRIDGE_PREFIX

TABLE = "essaim"
COMMENT = "essaim"

SOURCE_NAT_PRIORITY = 99
"""Before Docker's and other hosts' rules at `srcnat` (100)."""


def translation_script(subnets: Iterable[str]) -> str:
    """What `nft -f -` loads: the table anew, or none when there is no subnet.

    Containers reach what is outside of their network by the node's address, since nobody out
    there has a route back to an overlay address. Frames between bridges of ours keep theirs.
    """
    # Declaring the table first makes the deletion succeed where there was none.
    lines = [f"table ip {TABLE}", f"delete table ip {TABLE}"]
    rules = [
        f'ip saddr {subnet} ip daddr != {subnet} oifname != "{BRIDGE_PREFIX}*" masquerade'
        for subnet in sorted(set(subnets))
    ]
    if rules:
        lines += [
            f"table ip {TABLE} {{",
            "  chain postrouting {",
            f"    type nat hook postrouting priority {SOURCE_NAT_PRIORITY}; policy accept;",
            *(f"    {rule}" for rule in rules),
            "  }",
            "}",
        ]
    return "\n".join(lines) + "\n"


ACCEPT_RULES = (
    f"-i {BRIDGE_PREFIX}+ -m comment --comment {COMMENT} -j ACCEPT",
    f"-o {BRIDGE_PREFIX}+ -m conntrack --ctstate RELATED,ESTABLISHED,DNAT"
    f" -m comment --comment {COMMENT} -j ACCEPT",
)
"""What leaves a container, frames between ports of one bridge included (bridge-nf-call-iptables
sends those through FORWARD too); and to containers only answers and what was sent to a published
port. Spelled as iptables-save prints them, for they are compared with it."""


def accept_script(saved: str, is_wanted: bool) -> str:
    """What `iptables-restore --noflush` loads to set or remove the accept rules, given the
    output of `iptables-save -t filter`; empty when all is as wanted."""
    lines = saved.splitlines()
    chain = "DOCKER-USER" if any(line.startswith(":DOCKER-USER ") for line in lines) else "FORWARD"
    ours = [line for line in lines if line.startswith("-A ") and _is_ours(line)]
    wanted = [f"-A {chain} {rule}" for rule in ACCEPT_RULES] if is_wanted else []
    if sorted(map(_normal, ours)) == sorted(map(_normal, wanted)):
        return ""
    changes = [f"-D {line[3:]}" for line in ours]
    if is_wanted:
        changes += [f"-I {chain} {rule}" for rule in reversed(ACCEPT_RULES)]
    return _restore_input(changes)


def _is_ours(line: str) -> bool:
    words = line.replace('"', "").split()
    return any(pair == ("--comment", COMMENT) for pair in pairwise(words))


def _normal(line: str) -> tuple[str, ...]:
    """Versions of iptables-save quote the comment and order the states differently."""
    words = line.replace('"', "").split()
    return tuple(",".join(sorted(word.split(","))) for word in words)


def _restore_input(changes: Sequence[str]) -> str:
    return "\n".join(["*filter", *changes, "COMMIT"]) + "\n"
