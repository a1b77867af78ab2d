"""When the majority of disks is lost for good: one survivor goes on alone.

This can lose what was acknowledged (only a majority is sure to hold that), so it is done on a
stopped master, by hand, on the survivor with the highest (last term, last index), and never
while a quorum could still be had. All entries of that log count from then on, also those not known
to be committed: an acknowledged write may be among them, and none of them was ever refused.
"""

import hashlib
import socket
from pathlib import Path
from typing import NamedTuple

from essaim_master.config import MasterConfig, split_address
from essaim_master.raft import configurations, quorum
from essaim_master.raft.messages import Configuration, Entry, EntryKind, HardState
from essaim_master.tools.backup import INCARNATION_HEX_DIGITS, log_files
from essaim_master.wal.log import Wal
from essaim_master.wal.reading import ReadLog, read_log
from essaim_master.wal.records import Identity, WalBatch
from essaim_shared.errors import ConfigError, Conflict
from essaim_shared.ids import MemberId

CONNECT_TIMEOUT_S = 1.0


class Survey(NamedTuple):
    """What can be known from here."""

    identity: Identity
    configuration: Configuration
    last_index: int
    last_term: int
    commit: int
    reachable: tuple[MemberId, ...]
    """Other voters whose peer address takes connections."""

    @property
    def can_have_quorum(self) -> bool:
        voters = self.configuration.voters
        alive = {self.identity.member_id, *self.reachable}
        return len(alive.intersection(voters)) >= len(voters) // 2 + 1


def survey(data_dir: Path, config: MasterConfig) -> Survey:
    """Look at this master's stopped log, and at who else answers."""
    files = log_files(data_dir)
    files.lock()
    try:
        log = read_log(files)
    finally:
        files.unlock()
    configuration = _latest_configuration(log)
    others = {member.id: member.raft for member in config.first_members}
    reachable = tuple(
        member
        for member in quorum.members(configuration)
        if member != log.identity.member_id and member in others and _answers(others[member])
    )
    return Survey(
        log.identity,
        configuration,
        log.last_index,
        log.last_term,
        log.recovered.hard_state.commit,
        reachable,
    )


def go_on_alone(data_dir: Path, found: Survey) -> Identity:
    """Rewrite the membership to this master alone, in a new incarnation of the cluster.

    Raises Conflict while a quorum can be had, and ConfigError for a log that is in use.
    """
    if found.can_have_quorum:
        raise Conflict(
            f"a quorum of {', '.join(found.configuration.voters)} can still be had "
            f"({', '.join(found.reachable)} can be reached): start this master instead"
        )
    member = found.identity.member_id
    if member not in quorum.members(found.configuration):
        raise ConfigError(f"{member} is no member of the cluster that its log tells of")
    wal, recovered = Wal.open(log_files(data_dir), found.identity)
    try:
        wal.begin_incarnation(_incarnation(found))
        term = max(recovered.hard_state.term, found.last_term) + 1
        index = found.last_index + 1
        alone = configurations.encode(Configuration((member,)))
        entry = Entry(term, index, EntryKind.CONFIGURATION, alone)
        wal.append([WalBatch([entry], HardState(term, member, index))])
        return wal.identity
    finally:
        wal.close()


def _latest_configuration(log: ReadLog) -> Configuration:
    recovered = log.recovered
    changes = [one for one in recovered.entries if one.kind is EntryKind.CONFIGURATION]
    if changes:
        return configurations.decode(changes[-1].data)
    if recovered.snapshot is not None:
        return recovered.snapshot.configuration
    return log.identity.first_configuration


def _incarnation(found: Survey) -> str:
    words = (
        found.identity.incarnation,
        found.identity.member_id,
        found.last_term,
        found.last_index,
    )
    return hashlib.sha256(repr(words).encode()).hexdigest()[:INCARNATION_HEX_DIGITS]


def _answers(address: str) -> bool:
    try:
        with socket.create_connection(split_address(address), CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False
