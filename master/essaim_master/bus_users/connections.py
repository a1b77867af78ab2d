"""What a bus server shows of its clients (`/connz`). Pure."""

import msgspec


class Connection(msgspec.Struct, frozen=True):
    """What a client has sent since it connected, or until it left."""

    cid: int
    """Counted from the server's start."""
    in_msgs: int = 0
    in_bytes: int = 0
    authorized_user: str = ""
    """While it is open the public key with which it logged in. Of one that is over, whatever user
    name it gave, unproved: anybody's key may stand there, and its own does not."""
    reason: str = ""
    """Why it is over; empty while it is open."""
