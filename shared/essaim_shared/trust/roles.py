"""What the holder of a certificate is. Apart from `certificates`, whose library most never need."""

from enum import Enum

import msgspec


class Role(Enum):
    """The value stands in the certificate."""

    MASTER = "essaim-master"
    AGENT = "essaim-agent"
    USER = "essaim-user"


class Subject(msgspec.Struct, frozen=True):
    name: str
    """Of a node its id, of a master its name, of a user his."""
    role: Role
    cluster_id: str
