"""What a master that may stand by keeps beside its log, so that no crash gives a name two disks.

    DATA_DIR/standby.json     the name it takes part under, or will, and where the masters were
    DATA_DIR/wal/             the log of that name, once it takes part
    DATA_DIR/removed/N-NAME/  logs of names that were removed, the last ones

The order of writes decides: the empty log is there before the record says that the name takes
part, and a new name stands in the record before the old log is moved away. So a record that says
so without its log tells of a disk that was lost, and a log without such a record was never used,
or belongs to a name that is gone.
"""

import os
import shutil
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import msgspec

from essaim_master.at_rest.key_ring import LOG_DIRECTORY, RING_FILE, open_log_files
from essaim_master.state.cluster import Member
from essaim_master.wal.files import DiskLogFiles
from essaim_master.wal.log import Wal
from essaim_master.wal.reading import read_identity
from essaim_master.wal.records import Identity
from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId
from essaim_shared.sealing import write_private
from essaim_shared.undecodable import UNDECODABLE

RECORD_FILE = "standby.json"
REMOVED_DIRECTORY = "removed"
REMOVED_KEPT_MAX = 2
"""Logs of earlier times among the masters, kept to look into; older ones are deleted."""


class StandbyRecord(msgspec.Struct, frozen=True):
    member_id: MemberId
    takes_part: bool = False
    """The leader has added this name, and its log has begun."""
    incarnation: str = ""
    """Of the cluster, as the leader told it."""
    members: tuple[Member, ...] = ()
    """The masters, as the leader last told them: those of the configuration may be gone."""


class Start(Enum):
    """How a master that may stand by begins."""

    AS_CONFIGURED = "as configured"
    """Its configuration names it among the first members, and it was never removed."""
    AS_MEMBER = "as member"
    """Under the recorded name."""
    STANDING_BY = "standing by"
    """Under the recorded name."""
    WITH_NEW_NAME = "with new name"
    """Standing by; there is no name yet, or its log was lost."""


class Found(NamedTuple):
    record: StandbyRecord | None
    logged: MemberId | None
    """Whose log lies in the directory."""


def decide_start(found: Found, is_first_member: bool) -> Start:
    record, logged = found
    if record is None:
        return Start.AS_CONFIGURED if is_first_member or logged else Start.WITH_NEW_NAME
    if record.takes_part:
        return Start.AS_MEMBER if logged == record.member_id else Start.WITH_NEW_NAME
    return Start.STANDING_BY


class StandbyFiles:
    """Raises ConfigError for files that cannot be read, OSError for a disk that fails."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir

    def find(self) -> Found:
        return Found(self._read(), self._logged())

    def write(self, record: StandbyRecord) -> None:
        """Whole and durable, or not at all."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / RECORD_FILE
        new = path.with_name(path.name + ".new")
        with new.open("wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        _sync_directory(self._directory)

    def begin_log(self, identity: Identity) -> None:
        """An empty log of that name. Raises ForeignWal, WalCorrupt, ConfigError."""
        wal, _ = Wal.open(open_log_files(self._directory), identity)
        wal.close()

    def set_log_aside(self) -> None:
        """Move the log away, so that the next name begins with an empty one; the last
        REMOVED_KEPT_MAX stay to be looked into, each with the keys that open it. Does nothing
        without a log."""
        log = self._directory / LOG_DIRECTORY
        logged = self._logged()
        if logged is None:
            return
        removed = self._directory / REMOVED_DIRECTORY
        removed.mkdir(mode=0o700, exist_ok=True)
        kept = sorted(
            (int(digits), entry)
            for entry in removed.iterdir()
            if (digits := entry.name.partition("-")[0]).isdigit()
        )
        number = kept[-1][0] + 1 if kept else 1
        keys = self._directory / RING_FILE
        if keys.exists():
            write_private(log / RING_FILE, keys.read_bytes())
        log.rename(removed / f"{number}-{logged}")
        _sync_directory(removed)
        _sync_directory(self._directory)
        for _, old in kept[: len(kept) + 1 - REMOVED_KEPT_MAX]:
            shutil.rmtree(old)

    def _read(self) -> StandbyRecord | None:
        path = self._directory / RECORD_FILE
        try:
            return msgspec.json.decode(path.read_bytes(), type=StandbyRecord)
        except FileNotFoundError:
            return None
        except UNDECODABLE as error:
            raise ConfigError(
                f"{path}: is damaged ({error}); if this master is no member any more, remove the "
                "file and the wal directory beside it"
            ) from error

    def _logged(self) -> MemberId | None:
        log = self._directory / LOG_DIRECTORY
        if not log.is_dir():
            return None
        identity = read_identity(DiskLogFiles(log))
        return None if identity is None else identity.member_id


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
