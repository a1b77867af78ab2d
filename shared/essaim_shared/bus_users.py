"""Who may log in to a bus server, as a part of its configuration. Pure.

The file is included by the configuration of every bus server (`bus_server_config`), which reads it
when it starts and with each SIGHUP. A user is a public key (nkey) with the subjects of its holder
(`subjects.permissions_of`). It is the same on all masters: made of the identities in the state.

Which users a running server has, it tells only in one way that can be seen from outside: by
another setting of the same file. nats-server 2.9 shows its write deadline as nanoseconds under
`/varz`, once a reload is in force; so the nanoseconds below the second name the file's content.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from essaim_shared.errors import InvalidRequest
from essaim_shared.subjects import Permissions, permissions_of
from essaim_shared.trust.roles import Role
from essaim_shared.trust_objects import NodeIdentity

WRITE_DEADLINE_S: Final = 2
"""A client that takes no data for so long is cut off; see above for what is below the second."""
MARK_BITS: Final = 29
"""2**29 nanoseconds are half a second."""
NANOSECONDS: Final = 1_000_000_000
LOGIN_TIMEOUT_S: Final = 5

_PUBLIC_KEY = re.compile(r"U[A-Z2-7]{55}")


class UsersFile(msgspec.Struct, frozen=True):
    text: str
    write_deadline_ns: int
    """What a server that has loaded it shows."""
    user_count: int
    refused: tuple[str, ...]
    """Identities that have no user, and why, in words; those that are suspended not counted."""


def users_file(
    cluster_id: str, identities: Iterable[NodeIdentity], shut_out: frozenset[str] = frozenset()
) -> UsersFile:
    """`shut_out`: bus keys that this server refuses already, before the state says so.

    Masters are never shut out. Of two with one key the first one has it: masters before agents,
    then who joined earlier; else a node could take another's permissions away with a public key.
    """
    users: dict[str, str] = {}
    refused: list[str] = []
    for identity in sorted(identities, key=_precedence):
        is_master = identity.role is Role.MASTER
        if not is_master and (identity.suspended or identity.bus_key in shut_out):
            continue
        whose = f"{identity.role.value} {identity.name[:80]!r}"
        if _PUBLIC_KEY.fullmatch(identity.bus_key) is None:
            refused.append(f"{whose}: its key is none")
        elif identity.bus_key in users:
            refused.append(f"{whose}: its key is another's")
        else:
            try:
                granted = permissions_of(cluster_id, identity.role, identity.name)
            except InvalidRequest as error:
                refused.append(f"{whose}: {error}")
            else:
                users[identity.bus_key] = _user(identity, granted)
    listed = "".join(users.values())
    mark = int.from_bytes(hashlib.sha256(listed.encode()).digest()[:4]) >> (32 - MARK_BITS)
    deadline_ns = WRITE_DEADLINE_S * NANOSECONDS + mark
    text = (
        "# Made by essaim-master from the cluster's state; it does not survive by hand.\n"
        f'write_deadline: "{deadline_ns}ns"\n'
        "authorization {\n"
        f"  timeout: {LOGIN_TIMEOUT_S}\n"
        f"  users = [\n{listed}  ]\n"
        "}\n"
    )
    return UsersFile(text, deadline_ns, len(users), tuple(refused))


def _precedence(identity: NodeIdentity) -> tuple[bool, int, str]:
    return identity.role is not Role.MASTER, identity.joined_ns, identity.name


def _user(identity: NodeIdentity, granted: Permissions) -> str:
    # The allowed ones only: in nats-server, what no `allow` names is refused.
    return (
        f"    # {identity.role.value} {identity.name}\n"
        f"    {{ nkey: {identity.bus_key}, permissions: {{\n"
        f"      publish: {{ allow: {_listed(granted.publish)} }}\n"
        f"      subscribe: {{ allow: {_listed(granted.subscribe)} }}\n"
        "    } }\n"
    )


def _listed(patterns: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{pattern}"' for pattern in patterns) + "]"
