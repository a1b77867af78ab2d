"""What a master writes, sealed: its log, its snapshots, backups (docs/adr/0044).

Read in this order:

1. `cipher` (pure): one record of the log, bound to its place; what whoever has the keys is asked;
2. `sealed_stream` (pure): a whole file, as a snapshot or a backup is one;
3. `ring` (pure): the data keys of one master, as bytes of a file and back;
4. `key_ring`: that file; the newest key is written with, an older one goes with its last user;
5. `rotation`: when a new key is made;
6. `backup_file`: what leaves the disk, under a key that all masters have.
"""
