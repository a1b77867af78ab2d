"""Snapshots: the whole state at one index, so that the log before it can go.

Read in this order:

1. `format` (pure): the bytes of a snapshot file, made and checked piece by piece;
2. `files`: the snapshots of one master in the directory of its log, made durable by renaming;
3. `transfer` (pure): how a snapshot travels to a master that fell too far behind, and how it is
   put together there from chunks that may be lost, doubled and reordered;
4. `keeper`: the driver's part: when snapshots are made, sent and installed.

A snapshot counts only once the log says so: the file is renamed and its directory synced, then a
SNAPSHOT record is written and synced, then older segments and snapshots are removed. A crash
in between leaves a file that no record names (it is removed at the next start), or files that
nobody needs any more; never a log whose beginning is nowhere.
"""
