"""What every master does for the cluster beside its work, once a second.

    every master   announces what its build understands; stops if it is too old or too new for
                   the cluster, or is no member any more
    the leader     writes the objects of the first members, brings those that were promoted from
                   stand-by to vote, raises the cluster's version, and has the masters compare
                   their states, and deletes the oldest audit records

An alarm stands until its cause is gone; it is shown by `essaim raft status` and on /metrics.
"""

import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from essaim_master.cluster_members import ClusterMembers, MembershipNode, members_of
from essaim_master.hash_comparison import HashComparison, ReportedHash
from essaim_master.http.peer_requests import PeerRequests
from essaim_master.state.audit_records import surplus_records
from essaim_master.state.cluster import Cluster
from essaim_master.state.keys import HASH_CHECK_KEY, VERSION_KEY, member_build_key
from essaim_master.state.writes import Addressed, Writes
from essaim_master.state_hashes import StateHashes
from essaim_master.versions import (
    CLUSTER_VERSION,
    Feature,
    check_speaks,
    common_version,
    is_enabled,
)
from essaim_shared import __version__
from essaim_shared.clock import Clock
from essaim_shared.errors import ConfigError, Conflict, InvalidRequest, Unavailable
from essaim_shared.ids import MemberId
from essaim_shared.objects import ClusterVersion, HashCheck, MemberBuild

PERIOD_S = 1.0
HURRY_S = 0.1
"""Instead, while not all masters have announced themselves."""
COMMIT_TIMEOUT_S = 3.0
ASK_TIMEOUT_S = 1.0
HASH_PERIOD_S = 60.0
HASH_ATTEMPTS = 10
"""How often a master is asked for a hash that it may still be making, PERIOD_S apart."""
LONELY_S = 5.0
"""Without a leader, or not among the members, for so long: a master asks the others whether it
was removed."""

_log = logging.getLogger(__name__)


class AskMaster(Protocol):
    async def __call__(self, address: str, target: str) -> bytes | None:
        """The body of a good answer; None for any other, or none."""
        ...


def asking_over_http(requests: PeerRequests) -> AskMaster:
    async def ask(address: str, target: str) -> bytes | None:
        try:
            answer = await requests.ask(address, "GET", target, hops=1, timeout_s=ASK_TIMEOUT_S)
        except Unavailable:
            return None
        return answer.body if answer.status == 200 else None

    return ask


class _Row(msgspec.Struct, frozen=True, rename={"id": "ID", "is_removed": "Removed"}):
    """Of GET /essaim/cluster/members."""

    id: MemberId
    is_removed: bool = False


class ClusterUpkeep:
    def __init__(
        self,
        cluster: Cluster,
        node: MembershipNode,
        members: ClusterMembers,
        hashes: StateHashes,
        clock: Clock,
        on_unfit: Callable[[ConfigError], None],
        ask: AskMaster,
        hash_period_s: float = HASH_PERIOD_S,
        lonely_s: float = LONELY_S,
    ) -> None:
        """`on_unfit` ends this master: it must not go on with this build in this cluster."""
        self._cluster = cluster
        self._node = node
        self._members = members
        self._hashes = hashes
        self._clock = clock
        self._on_unfit = on_unfit
        self._ask = ask
        self._hash_period_s = hash_period_s
        self._lonely_s = lonely_s
        self._next_hash_s = clock.monotonic_s() + hash_period_s
        self._hashed_revision = 0
        self._comparison = HashComparison(cluster.member_id)
        self._attempts_left = 0
        self._lonely_since_s: float | None = None

    @property
    def alarms(self) -> tuple[str, ...]:
        """One sentence each."""
        return self._comparison.alarms

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.turn()
            await self._clock.sleep(HURRY_S if self._is_beginning else PERIOD_S)

    @property
    def _is_beginning(self) -> bool:
        """Somebody's announcement is missing: users wait for what only a known cluster may do."""
        announced = self._cluster.state.member_builds
        members = members_of(self._node.status().configuration)
        return any(member not in announced for member in members)

    async def turn(self) -> None:
        self._members.look_for_removal()
        try:
            check_speaks(self._cluster.state.cluster_version)
        except ConfigError as error:
            self._on_unfit(error)
            return
        try:
            await self._look_for_company()
            await self._announce()
            if self._node.is_leader:
                await self._raise_version()
                await self._members.found()
                await self._members.advance()
                await self._check_hashes()
                await self._trim_audit_log()
        except (Unavailable, Conflict, InvalidRequest) as error:
            # Nothing here is urgent, and the next turn begins with what is the case then.
            _log.debug("left for later: %s", error)

    async def _look_for_company(self) -> None:
        """A master that was removed while it was away is told nothing by Raft: ask."""
        own_id, now_s = self._cluster.member_id, self._clock.monotonic_s()
        is_member = own_id in members_of(self._node.status().configuration)
        if is_member and self._node.leader is not None:
            self._lonely_since_s = None
            return
        if self._lonely_since_s is None:
            self._lonely_since_s = now_s
        if now_s - self._lonely_since_s < self._lonely_s:
            return
        self._lonely_since_s = now_s
        for member in self._cluster.members:
            if member.id == own_id:
                continue
            body = await self._ask(member.http, "/essaim/cluster/members?consistency=local")
            if body is not None:
                rows = msgspec.json.decode(body, type=list[_Row])
                if any(row.id == own_id and row.is_removed for row in rows):
                    self._members.removed()
                    return

    async def _announce(self) -> None:
        own_id, state = self._cluster.member_id, self._cluster.state
        if self._node.leader is None:
            return
        if own_id not in members_of(self._node.status().configuration):
            return
        build = MemberBuild(id=own_id, version=CLUSTER_VERSION, build=__version__)
        if state.member_builds.get(own_id) != build:
            await self._write(build, member_build_key(own_id))

    async def _raise_version(self) -> None:
        state = self._cluster.state
        members = members_of(self._node.status().configuration)
        version = common_version(state.cluster_version, members, state.member_builds.values())
        if version > state.cluster_version and await self._write(
            ClusterVersion(version=version), VERSION_KEY
        ):
            _log.info("the cluster is at version %d now", version)

    async def _check_hashes(self) -> None:
        state, now_s = self._cluster.state, self._clock.monotonic_s()
        if self._attempts_left > 0:
            await self._compare()
            return
        is_due = now_s >= self._next_hash_s and state.revision != self._hashed_revision
        if not (is_due or self._comparison.wants_another):
            return
        if not is_enabled(state.cluster_version, Feature.HASH_CHECKS):
            return
        last = state.hash_check
        check = HashCheck(
            member_id=self._cluster.member_id, number=1 if last is None else last.number + 1
        )
        if await self._write(check, HASH_CHECK_KEY):
            self._next_hash_s = now_s + self._hash_period_s
            self._hashed_revision = state.modified(HASH_CHECK_KEY)
            self._attempts_left = HASH_ATTEMPTS

    async def _trim_audit_log(self) -> None:
        """More than come in a period are deleted in one, so it never grows for long."""
        records = self._cluster.state.audit_records
        writes = Writes()
        for number in surplus_records(records, len(records)):
            writes.delete_audit_record(number)
        for transaction in writes.transactions():
            await self._cluster.commit(transaction, COMMIT_TIMEOUT_S)

    async def _compare(self) -> None:
        """Gather what is known by now; masters that are away are left out in the end."""
        self._attempts_left -= 1
        revision, state = self._hashed_revision, self._cluster.state
        own = self._hashes.at(revision)
        if own is None:
            return
        builds = state.member_builds
        own_build = builds.get(self._cluster.member_id)
        reported: dict[MemberId, ReportedHash] = {}
        # Another build may write the same state in other bytes: there is nothing to compare.
        others = [
            member
            for member in self._cluster.members
            if member.id != self._cluster.member_id
            and own_build is not None
            and (build := builds.get(member.id)) is not None
            and (build.version, build.build) == (own_build.version, own_build.build)
        ]
        for member in others:
            body = await self._ask(member.http, f"/essaim/cluster/hash?revision={revision}")
            if body is not None:
                reported[member.id] = msgspec.json.decode(body, type=ReportedHash)
        if len(reported) == len(others) or self._attempts_left == 0:
            self._attempts_left = 0
            self._comparison.compare(own.revision, own.hash, reported)

    async def _write(self, stored: Addressed, key: bytes) -> bool:
        writes = Writes()
        writes.put(stored)
        writes.expect(key, self._cluster.state.modified(key))
        (transaction,) = writes.transactions()
        result = await self._cluster.commit(transaction, COMMIT_TIMEOUT_S)
        return result.succeeded
