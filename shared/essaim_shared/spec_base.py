"""What all specs have in common, and what an update does with fields that Docker does not know.

The JSON names are Docker's (`docker_names`). Durations are integer nanoseconds, as on Docker's
wire. A field that Essaim cannot honour is not defined, so the HTTP edge refuses it by name
instead of dropping it.

Fields that Docker does not have are *Essaim fields*: typed `… | UnsetType | None`. Docker's
clients read, change and write back without them, so on update an absent one keeps its value and
only an explicit null clears it (`keep_essaim_fields`).
"""

from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from essaim_shared.docker_names import docker_name


class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename=docker_name):
    """Base of all specs: absent fields are not written, as Docker's `omitempty` does."""


S = TypeVar("S", bound=Spec)


def keep_essaim_fields(new: S, old: S) -> S:
    """`new` with each unset Essaim field taken from the same place of `old`; nulls cleared.

    Structs are walked together; lists are not, since their elements have no identity.
    """
    changes: dict[str, Any] = {}
    for field in new.__struct_fields__:
        wanted, present = getattr(new, field), getattr(old, field)
        if wanted is UNSET:
            if present is not UNSET:
                changes[field] = present
        elif isinstance(wanted, Spec) and isinstance(present, type(wanted)):
            changes[field] = keep_essaim_fields(wanted, present)
    return msgspec.structs.replace(new, **changes) if changes else new
