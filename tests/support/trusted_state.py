"""Identities in a state, for tests that need no keys."""

from essaim_shared.trust.roles import Role
from essaim_shared.trust_objects import NodeIdentity


def identity_of(role: Role, name: str, **changed) -> NodeIdentity:
    fields = {
        "role": role,
        "name": name,
        "bus_key": name,
        "key_digest": name,
        "serial": "1",
        "generation": 1,
        "issued_ns": 1,
        "expires_ns": 2,
        "joined_ns": 1,
    }
    return NodeIdentity(**{**fields, **changed})
