"""Errors of what is sealed on the disk.

ConfigError
└── DataKeyMissing    the key is not there; the bytes may be as good as ever
"""

from essaim_shared.errors import ConfigError


class DataKeyMissing(ConfigError):
    """A file is sealed with a key that is not in the ring. Nothing is lost while somebody has the
    ring that belongs to it."""

    def __init__(self, key_id: bytes, what: str, ring: str) -> None:
        super().__init__(
            f"{what} is sealed with the data key {key_id.hex()}, which is not in {ring}: put back "
            "the file of keys that belongs to this disk; if it is lost, let this master join again "
            "under a new member id with an empty data directory"
        )
