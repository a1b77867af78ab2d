"""Identifiers: 25 characters of base 36, as Docker Swarm's are.

25 base-36 digits hold 129 bits, so identifiers are drawn at random without asking anybody.
"""

import random
import string
from typing import NewType

ServiceId = NewType("ServiceId", str)
TaskId = NewType("TaskId", str)
NodeId = NewType("NodeId", str)
NetworkId = NewType("NetworkId", str)
PayloadId = NewType("PayloadId", str)
"""Of a secret or a config."""
MemberId = NewType("MemberId", str)
"""The name of a Raft member; in the static first configuration it is chosen by the operator."""

HOST_NETWORK_ID = NetworkId("essaimhostnetwork00000000")
"""Of the predefined network that stands for each node's own: the same in every cluster, so that a
node knows it without being told, and puts no task there for want of an address."""

ID_LENGTH = 25
SHORT_ID_LENGTH = 12
"""What tables show, as `docker` does."""

_DIGITS = string.digits + string.ascii_lowercase


def new_id(rng: random.Random) -> str:
    """Draw a fresh identifier from `rng` (seeded by the system in daemons, by tests in tests)."""
    number = rng.getrandbits(128)
    digits = []
    for _ in range(ID_LENGTH):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def short_id(identifier: str) -> str:
    return identifier[:SHORT_ID_LENGTH]
