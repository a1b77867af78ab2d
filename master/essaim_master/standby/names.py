"""The names under which a master that stands by takes part. Pure.

A removed member's name must not come back (rule 20 of the consensus: a disk that forgot its votes
could vote twice), so each time such a master takes part it has a new one: what its configuration
calls it, a dash, and eight random characters.
"""

import random
import re

from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId

BASE_NAME_MAX = 54
"""Characters; with the rest 63, as long as a member's name may be."""

_SUFFIX_HEX_DIGITS = 8
_BASE = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{BASE_NAME_MAX - 1}}}")
_DRAWN = re.compile(rf"(.+)-[0-9a-f]{{{_SUFFIX_HEX_DIGITS}}}")


def draw_name(base: str, rng: random.Random) -> MemberId:
    return MemberId(f"{base}-{rng.getrandbits(4 * _SUFFIX_HEX_DIGITS):0{_SUFFIX_HEX_DIGITS}x}")


def base_name(member_id: MemberId) -> str:
    """What the configuration calls this master; the name itself if it was not drawn."""
    drawn = _DRAWN.fullmatch(member_id)
    return member_id if drawn is None else drawn[1]


def check_base_name(base: str) -> None:
    """Raises ConfigError."""
    if _BASE.fullmatch(base) is None:
        raise ConfigError(
            f"member_id: {base!r} cannot name a master that stands by: letters, digits, - and _, "
            f"at most {BASE_NAME_MAX}"
        )
