"""What lets the overlay through other people's rules. Pure.

In nft an `accept` of ours overrides nobody's `drop`, so a FORWARD policy of DROP (set by Docker
where it finds ip_forward=0, by ufw, by firewalld) needs accept rules in that very chain: in
DOCKER-USER where it is, as Docker asks of others, else at the head of FORWARD. What we forbid and
translate ourselves needs no such thing and stays in tables of our own (`isolation`, `proxy`).
"""

from collections.abc import Sequence
from itertools import pairwise

from essaim_agent.overlay.proxy import SENT_ON_MARK
from essaim_agent.overlay.tables import BRIDGE_PREFIX

COMMENT = "essaim"

ACCEPT_RULES = (
    f"-i {BRIDGE_PREFIX}+ -m comment --comment {COMMENT} -j ACCEPT",
    f"-o {BRIDGE_PREFIX}+ -m conntrack --ctstate RELATED,ESTABLISHED,DNAT"
    f" -m comment --comment {COMMENT} -j ACCEPT",
    f"-m connmark --mark {SENT_ON_MARK:#x}/{SENT_ON_MARK:#x}"
    f" -m comment --comment {COMMENT} -j ACCEPT",
)
"""What leaves a container, frames between ports of one bridge included (bridge-nf-call-iptables
sends those through FORWARD too); to containers only answers and what was sent to a published
port; and what is sent on to the published port of another node, with its answers. Spelled as
iptables-save prints them, for they are compared with it."""


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
