"""Looking into the files of a stopped master: its log and its state. Nothing is changed.

The bytes are decoded with the `msgpack` package and without our types (`inspection`).
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from essaim_master.inspection import entry_object, stored_object
from essaim_master.kv.store import KeyValueStore
from essaim_master.raft.messages import EntryKind
from essaim_master.snapshot.files import SnapshotFiles
from essaim_master.tools.backup import log_files
from essaim_master.wal.files import DiskLogFiles
from essaim_master.wal.reading import ReadLog, read_log
from essaim_shared.errors import InvalidRequest

ENTRIES_DEFAULT = 100


def add_commands(commands: Any) -> None:
    """To the tools' parser."""
    log = commands.add_parser("log", help="Show entries of a stopped master's log.")
    log.add_argument("--from", dest="first", type=int, metavar="N")
    log.add_argument("--limit", type=int, default=ENTRIES_DEFAULT, metavar="N")
    log.add_argument("-o", "--output", choices=("table", "json"), default="table")
    log.set_defaults(run=_log)
    dump = commands.add_parser("dump", help="Show every key of a stopped master's state.")
    dump.set_defaults(run=_dump)
    for command in (log, dump):
        command.add_argument("--data-dir", type=Path, required=True)


def log_object(data_dir: Path, first: int | None, limit: int) -> dict[str, Any]:
    """What `GET /essaim/raft/log` shows of a running one. Raises InvalidRequest, ConfigError,
    WalCorrupt."""
    _, log = _read(data_dir)
    entries = log.recovered.entries
    snapshot = log.recovered.snapshot
    first_index = entries[0].index if entries else log.last_index + 1
    if first is not None and first < first_index:
        raise InvalidRequest(f"entries before {first_index} are in the snapshot: ask from there")
    start = max(0, len(entries) - limit) if first is None else first - first_index
    return {
        "MemberID": log.identity.member_id,
        "ClusterID": log.identity.cluster_id,
        "FirstIndex": first_index,
        "LastIndex": log.last_index,
        "CommitIndex": log.recovered.hard_state.commit,
        "Term": log.recovered.hard_state.term,
        "Vote": log.recovered.hard_state.vote,
        "SnapshotIndex": 0 if snapshot is None else snapshot.index,
        "TornBytes": log.torn_bytes,
        "Entries": [entry_object(entry) for entry in entries[start : start + limit]],
    }


def dump_objects(data_dir: Path) -> Iterable[dict[str, Any]]:
    """Every key of the committed state, in order. Raises ConfigError, WalCorrupt, or
    SnapshotDamaged."""
    files, log = _read(data_dir)
    store = KeyValueStore()
    if log.recovered.snapshot is not None:
        store.restore(SnapshotFiles(files).chunks(log.recovered.snapshot))
    for entry in log.recovered.entries:
        if entry.index <= log.recovered.hard_state.commit and entry.kind is EntryKind.NORMAL:
            store.apply(entry.index, entry.term, entry.data)
    for found in store.between(b"", b""):
        yield {**stored_object(found.key, found.value), "Modified": found.modified}


def _read(data_dir: Path) -> tuple[DiskLogFiles, ReadLog]:
    files = log_files(data_dir)
    files.lock()  # A running master would write on under our eyes.
    try:
        return files, read_log(files)
    finally:
        files.unlock()


def _log(arguments: argparse.Namespace) -> None:
    found = log_object(arguments.data_dir, arguments.first, max(1, arguments.limit))
    if arguments.output == "json":
        print(json.dumps(found))
        return
    print(
        f"{found['MemberID']} of {found['ClusterID']}: term {found['Term']}, entries "
        f"{found['FirstIndex']} to {found['LastIndex']}, committed {found['CommitIndex']}, "
        f"snapshot {found['SnapshotIndex']}"
    )
    for one in found["Entries"]:
        print(f"{one['Index']}\t{one['Term']}\t{one['Kind']}\t{one['Bytes']}\t{one['Summary']}")


def _dump(arguments: argparse.Namespace) -> None:
    for item in dump_objects(arguments.data_dir):
        print(json.dumps(item))
