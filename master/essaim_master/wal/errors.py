"""Errors of the write-ahead log.

EssaimError
├── WalCorrupt      durable bytes are damaged: this master must not vote with them
└── ConfigError
    └── ForeignWal  an intact log, but of another cluster, member or first configuration
"""

from essaim_shared.errors import ConfigError, EssaimError


class WalCorrupt(EssaimError):
    """Durable records can not be read back. The master must not start: what it forgot may be a
    vote or an acknowledged entry (FAST 2018, section 2.3)."""

    def __init__(self, file: str, offset: int, reason: str) -> None:
        self.file = file
        self.offset = offset
        self.reason = reason
        super().__init__(
            f"write-ahead log {file} is damaged at byte {offset}: {reason}; "
            "keep the directory for inspection, and let this master join again "
            "under a new member id with an empty data directory"
        )


class ForeignWal(ConfigError):
    pass
