"""Where the keys of users lie: under a prefix that no object of the cluster has.

What users write can so never pass for a service or a leader's epoch, and what they may fill is
bounded without keeping the cluster from writing down what its containers do.
"""

USER_PREFIX = b"/kv/"
USER_PREFIX_END = b"/kv0"
KEY_BYTES_MAX = 4096
"""Of a user's key, without the prefix."""


def stored_key(user_key: bytes) -> bytes:
    return USER_PREFIX + user_key


def user_key(key: bytes) -> bytes:
    return key[len(USER_PREFIX) :]


def stored_range(start: bytes, end: bytes) -> tuple[bytes, bytes]:
    """[start, end) of users' keys; an empty `end` means to the last of them."""
    return USER_PREFIX + start, USER_PREFIX + end if end else USER_PREFIX_END
