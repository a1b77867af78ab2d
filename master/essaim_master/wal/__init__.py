"""The write-ahead log: what a master must not forget, on disk before anybody is told of it.

Read in this order:

1. `records` (pure): bytes of one record and of one batch, with the chained checksum;
2. `recovery` (pure): the segments' bytes → hard state and entries, or where and why not;
3. `files`: the few file operations the log needs, as a protocol, and their real form
   (`memory_files` is the twin with crashes and faults);
4. `log`: `Wal`, which opens, appends in synced batches, and moves on to the next segment;
5. `writer`: the one thread that writes, and how batches come together while a sync runs;
6. `reading`: the same files looked at without changing anything, for tools.

Snapshots (`essaim_master.snapshot`) stand in the same directory; a record of the log says of each
that it counts. Why torn and damaged are told apart as they are: docs/adr/0017.

Theory, in four sentences. A *batch* is what one `fdatasync` makes durable; it ends with a
batch-end record, and the next batch is not written before that sync returned. So damage in
front of a later batch can only be a broken disk, and the log refuses to open; damage in the
last batch is a write that the power cut, which nobody was told of, and it is cut away
(Alagappan et al., "Protocol-Aware Recovery", FAST 2018). Every checksum includes the one
before it, so old bytes can not pass for new ones. A failed sync ends the process: the kernel
may mark the lost pages as clean, so a second sync would lie (Rebello et al., ATC 2020).
"""
