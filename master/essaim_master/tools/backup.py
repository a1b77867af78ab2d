"""Backups: made from the files of a stopped master, checked, and made into first disks again.

A backup is a snapshot file (`snapshot.format`), sealed with the key that all masters share
(`at_rest.backup_file`) unless an open one is wanted: it carries its own hash. Restoring makes the
disk of one master; do it on each, with the same file. The cluster then begins a new *incarnation*,
named after the backup, so that a master of the old life that comes back is not listened to, as
with etcd's new cluster id after a restore. The cluster's name stays, so agents find it again.
"""

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from essaim_master.at_rest.backup_file import backup_pieces, sealed_backup
from essaim_master.at_rest.key_ring import LOG_DIRECTORY, open_log_files
from essaim_master.config import MasterConfig
from essaim_master.kv.store import KeyValueStore
from essaim_master.raft.configurations import decode as decode_configuration
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    SnapshotMetadata,
)
from essaim_master.snapshot.errors import SnapshotDamaged
from essaim_master.snapshot.files import SnapshotFiles
from essaim_master.snapshot.format import (
    SnapshotFooter,
    SnapshotHeader,
    SnapshotReader,
    new_header,
    snapshot_bytes,
)
from essaim_master.standby.record import RECORD_FILE
from essaim_master.wal.files import DiskLogFiles
from essaim_master.wal.log import Wal
from essaim_master.wal.reading import read_identity, read_log
from essaim_master.wal.records import Identity, SnapshotRecord, WalBatch
from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId
from essaim_shared.sealing import DataKey

INCARNATION_HEX_DIGITS = 12


class CheckedBackup(NamedTuple):
    header: SnapshotHeader
    footer: SnapshotFooter


def log_files(data_dir: Path) -> DiskLogFiles:
    """A master's log, with its keys. Raises ConfigError if there is none."""
    directory = data_dir / LOG_DIRECTORY
    if not directory.is_dir():
        raise ConfigError(f"{directory} does not exist: name the data_dir of a master")
    return open_log_files(data_dir)


def backup_files(data_dir: Path, to: Path, key: DataKey | None) -> CheckedBackup:
    """Write what a stopped master knows to be committed into `to`, sealed if there is a key,
    synced and checked."""
    files = log_files(data_dir)
    files.lock()
    try:
        log = read_log(files)
        recovered = log.recovered
        store = KeyValueStore()
        if recovered.snapshot is not None:
            store.restore(SnapshotFiles(files).chunks(recovered.snapshot))
        committed = [
            entry for entry in recovered.entries if entry.index <= recovered.hard_state.commit
        ]
        for entry in committed:
            if entry.kind is EntryKind.NORMAL:
                store.apply(entry.index, entry.term, entry.data)
    finally:
        files.unlock()
    before = recovered.snapshot or SnapshotMetadata(0, 0, log.identity.first_configuration)
    metadata = SnapshotMetadata(
        committed[-1].index if committed else before.index,
        committed[-1].term if committed else before.term,
        _configuration(before.configuration, committed),
    )
    partial = to.with_name(to.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)  # It may be an open one.
    with partial.open("wb") as file:
        pieces = snapshot_bytes(new_header(log.identity, metadata), store.freeze().chunks())
        if key is not None:
            cluster_id = log.identity.cluster_id
            pieces = sealed_backup(key, cluster_id, pieces, secrets.token_bytes)
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())
    checked = check_backup(partial, key)
    partial.rename(to)
    return checked


def check_backup(path: Path, key: DataKey | None) -> CheckedBackup:
    """Read a backup from end to end. Raises SnapshotDamaged, OSError, and ConfigError when it is
    sealed with another key, or with any while none is given."""
    header: SnapshotHeader | None = None
    footer: SnapshotFooter | None = None
    reader = SnapshotReader(str(path))
    for piece in backup_pieces(path, key):
        for part in reader.feed(piece):
            header, footer = part.header or header, part.footer or footer
    reader.check_complete()
    if header is None or footer is None:
        raise SnapshotDamaged(str(path), 0, "it has no header")
    return CheckedBackup(header, footer)


def restore_backup(
    path: Path, config: MasterConfig, data_dir: Path, key: DataKey | None
) -> Identity:
    """Make the first disk of this master in the cluster's new life; its identity.

    Raises SnapshotDamaged, and ConfigError where a log or a record of standing by is there
    already, and for a wrong key.
    """
    backup = check_backup(path, key)
    voters = Configuration(tuple(member.id for member in config.first_members))
    identity = Identity(
        config.cluster_id,
        MemberId(config.member_id),
        voters,
        _incarnation(backup, config),
    )
    if (data_dir / RECORD_FILE).exists():
        # A start would find a log that is not the record's, and set it aside.
        raise ConfigError(
            f"{data_dir / RECORD_FILE} says under which name this master stood by in the life "
            "before: remove it, so that this master begins with what is restored"
        )
    files = open_log_files(data_dir)
    files.lock()
    try:
        if read_identity(files) is not None:
            raise ConfigError(
                f"{data_dir} holds a log already: a restore begins with an empty directory, so "
                "move this one away first"
            )
        old = backup.header.metadata
        metadata = SnapshotMetadata(old.index, old.term, voters)
        written = SnapshotFiles(files).write(new_header(identity, metadata), _chunks(path, key))
    finally:
        files.unlock()
    if written.footer != backup.footer:
        raise SnapshotDamaged(str(path), 0, "its hash changed while it was read")
    wal, _ = Wal.open(files, identity)
    try:
        state = HardState(metadata.term, None, metadata.index)
        wal.append([WalBatch(hard_state=state, snapshot=SnapshotRecord(metadata, True))])
    finally:
        wal.close()
    return identity


def _configuration(before: Configuration, committed: list[Entry]) -> Configuration:
    changes = [entry for entry in committed if entry.kind is EntryKind.CONFIGURATION]
    return decode_configuration(changes[-1].data) if changes else before


def _incarnation(backup: CheckedBackup, config: MasterConfig) -> str:
    """The same on every master that restores the same file into the same cluster."""
    digest = hashlib.sha256(backup.footer.state_hash)
    old = backup.header
    names = [member.id for member in config.first_members]
    for word in (config.cluster_id, old.incarnation, str(old.metadata.index), *names):
        digest.update(word.encode() + b"\0")
    return digest.hexdigest()[:INCARNATION_HEX_DIGITS]


def _chunks(path: Path, key: DataKey | None) -> Iterator[bytes]:
    reader = SnapshotReader(str(path))
    for piece in backup_pieces(path, key):
        for part in reader.feed(piece):
            if part.chunk is not None:
                yield part.chunk
    reader.check_complete()
