"""Raft (Ongaro and Ousterhout 2014) without I/O: the handbook for whoever writes the loop.

`RaftCore` decides; it reads no clock, opens nothing, awaits nothing. Its caller owns the disk, the
links, the time and the state machine, and writes this loop around it::

    while True:
        wait for: messages | a tick (100 ms) | proposals | reads | a finished sync
        for message in arrived:          core.step(message)          # before the tick
        for sync in finished:            core.persisted(sync.term, sync.index)
        if a tick is due:                core.tick()                 # at most one a turn
        if proposals:                    core.propose(all of them)   # one batch a turn
        if readers:                      core.read_index(context)    # one for all of them
        if core.has_ready():
            ready = core.ready()
            1. send     ready.messages_now
            2. persist  ready.entries, ready.hard_state              # fdatasync if must_sync
            3. send     ready.messages_after_sync                    # when 2 is durable
            4. apply    ready.committed, core.applied_to(last); serve ready.reads
            5. stream   the newest durable snapshot to each of ready.snapshot_to_send

What the caller promises:

* **Order of syncs.** Readies are persisted in their order, and `messages_after_sync` of one leave
  after its own sync *and all earlier ones*, also when it has nothing of its own to write: they
  may speak of entries which an earlier Ready handed out. Then `core.persisted(persist_term,
  persist_index)`. A new Ready may be taken while a sync is under way; several may share one sync,
  and then the last one's numbers are enough. Never call `persisted` for what is not on disk.
* **Replacing the tail.** Entries whose first index is not above the last one written replace
  everything from there on.
* A Ready whose `must_sync` is false may stay in the page cache, or wait for the next write: a
  `commit` that is forgotten in a crash is learned again (rule 4).
* **Applying** need not wait for step 2: what is committed is on the disks of a quorum, of which
  this one may not be part yet. Entries of kind NORMAL are commands, NO_OP is skipped, all of them
  count for `applied_to`. A read is served once its `index` is applied.
* A write or sync that fails ends the process. It is not tried again.
* **Links** may lose, double, delay and reorder messages; every one carries its term. Where a
  message is known to be lost, say so with `report_unreachable`. `step` raises MalformedMessage for
  a datagram that no correct member sends: drop it, and the link.
* **Snapshots** are the caller's; the core knows their names. Its own, once durable, it is told by
  `compacted`, with `configuration_at(index)` in the name. A stream that `snapshot_to_send` asked
  for ends in `report_snapshot` exactly once, also when it failed or was given up. A follower's
  caller stores a snapshot that arrives; when all of it is durable, and so is all that was handed
  out before, it calls `install_snapshot`. If that is True, the log on disk begins anew behind it
  (on disk before the next Ready is), committed entries that still wait are void, and the state
  machine becomes the snapshot's.
* **Members** change by `propose_configuration`, which takes effect without the caller. Who is a
  member is `status().configuration`; connect to all of them.
* At start, give `RaftCore` what the disk holds: the newest whole snapshot, and the entries. A
  member whose disk was lost comes back under a new name: under the old one it could vote twice
  (rule 20).

Order to read in: `messages`, `configurations`, `log`, `quorum`, `progress`, `reads`, `member`,
`elections`, `replication`, `reading`, `snapshots`, `membership`, `core`. "Rule n" in comments
numbers this list:

1. pre-vote and check-quorum, together; 2. a transfer overrides the grace of a living leader; 3.
the election timer is reset only by a sign of the leader, a vote granted, an own campaign; 4. term
and vote are durable before any message of that term; 5. a new leader commits a no-op, and counts
only entries of its own term; 6. learners answer votes and never campaign; a configuration counts
once it is appended (docs/adr/0013); 7. every message has a term, votes are kept by sender, match
only grows; 8. only a real conflict truncates, never below commit; 9. a refusal skips a whole
term; 10. probe, replicate, snapshot; a heartbeat's answer resumes; 11. a heartbeat never tells a
commit beyond match; 12. a report of durability counts only in the term of its submission; 13. a
leader acknowledges its own entries when its own disk has them; 14. uncommitted and handed-out
bytes are bounded; 15. reads wait for an own entry and a fresh, numbered round; 16. there are no
lease reads; 17. a change of the members needs a committed entry of the leader's own term, and the
change before it applied; 18. learner first, promoted once it holds the log, one member at a time,
never past a majority that answers; 19. a removed leader counts itself no more, hands over when
its removal is committed, and follows; 20. a lost disk means a new name.
"""
