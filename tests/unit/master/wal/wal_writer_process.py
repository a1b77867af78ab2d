"""Appends to a log for ever and says each index once it is durable. Started, and killed, by
`test_acknowledged_entries_survive_kill_9`."""

import sys
from pathlib import Path

from essaim_master.raft.messages import Configuration, Entry, EntryKind
from essaim_master.wal.files import DiskLogFiles
from essaim_master.wal.log import Wal
from essaim_master.wal.records import Identity, WalBatch
from essaim_shared.ids import MemberId


def main(directory: Path) -> None:
    identity = Identity("c", MemberId("m1"), Configuration((MemberId("m1"),)))
    wal, recovered = Wal.open(DiskLogFiles(directory), identity, 64 * 1024)
    index = len(recovered.entries)
    while True:
        index += 1
        data = index.to_bytes(8, "big") * (1 + index % 100)
        wal.append([WalBatch([Entry(1, index, EntryKind.NORMAL, data)])])
        print(index, flush=True)


main(Path(sys.argv[1]))
