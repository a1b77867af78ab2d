"""From one authority to the next, in steps that every process confirms. Pure.

| step          | believed | signs | the next step, when every identity has confirmed this one     |
|---------------|----------|-------|---------------------------------------------------------------|
| SETTLED       | A        | A     | a user asks for a rotation                                    |
| INTRODUCING   | A, B     | A     | everybody believes B: whatever B signs is accepted everywhere |
| RENEWING      | A, B     | B     | everybody has a certificate by B                              |
| SETTLED       | B        | B     |                                                               |

Each step is a `TrustAnchors.generation`; an identity has confirmed it when its own generation is
as high. A node that is away holds the step up until it is back, or removed, or its certificate
has expired: then it could not come back in any case.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final

import msgspec

from essaim_shared.errors import Conflict
from essaim_shared.trust_objects import NodeIdentity, TrustAnchors

LAGGARDS_SHOWN_MAX: Final = 100
STEPS_PER_ROTATION: Final = 3
"""Generations from one settled authority to the next."""


class Step(Enum):
    SETTLED = "settled"
    INTRODUCING = "introducing"
    RENEWING = "renewing"


class Successor(msgspec.Struct, frozen=True):
    """The authority that is to be, with its key sealed."""

    certificate: bytes
    sealed_key: bytes
    leading: bytes
    """It, signed by the present one."""


def step_of(anchors: TrustAnchors) -> Step:
    if anchors.next_signing:
        return Step.INTRODUCING
    return Step.SETTLED if anchors.believed == (anchors.signing,) else Step.RENEWING


def begin(anchors: TrustAnchors, successor: Successor) -> TrustAnchors:
    """Raises Conflict while a rotation is under way."""
    if step_of(anchors) is not Step.SETTLED:
        raise Conflict(
            "the authority is being replaced already: see how far it is with essaim cluster ca"
        )
    return msgspec.structs.replace(
        anchors,
        generation=anchors.generation + 1,
        believed=(anchors.signing, successor.certificate),
        next_signing=successor.certificate,
        next_sealed_key=successor.sealed_key,
        next_leading=successor.leading,
    )


def laggards(
    anchors: TrustAnchors, identities: Iterable[NodeIdentity], now_ns: int
) -> tuple[NodeIdentity, ...]:
    """Who has not confirmed the present step and still could."""
    return tuple(
        one for one in identities if one.generation < anchors.generation and one.expires_ns > now_ns
    )


def advanced(
    anchors: TrustAnchors, identities: Iterable[NodeIdentity], now_ns: int
) -> TrustAnchors | None:
    """The next step if it is due; None when there is none, or somebody has yet to confirm."""
    step = step_of(anchors)
    if step is Step.SETTLED or laggards(anchors, identities, now_ns):
        return None
    if step is Step.INTRODUCING:
        return msgspec.structs.replace(
            anchors,
            generation=anchors.generation + 1,
            signing=anchors.next_signing,
            sealed_key=anchors.next_sealed_key,
            leading=anchors.next_leading,
            next_signing=b"",
            next_sealed_key=b"",
            next_leading=b"",
        )
    return msgspec.structs.replace(
        anchors, generation=anchors.generation + 1, believed=(anchors.signing,)
    )
