"""Errors of snapshots.

EssaimError
└── SnapshotDamaged    the bytes of a snapshot are not those that were written
"""

from essaim_shared.errors import EssaimError


class SnapshotDamaged(EssaimError):
    """A snapshot can not be read back. At a start the one before it is used, if the log reaches
    back to that; a received one is thrown away and asked for again."""

    def __init__(self, name: str, offset: int, reason: str) -> None:
        self.name = name
        self.offset = offset
        self.reason = reason
        super().__init__(
            f"snapshot {name} is damaged at byte {offset}: {reason}; use another copy of it"
        )
