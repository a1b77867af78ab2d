"""Puts the record of a change into the change's own transaction: who, what, from where.

Whatever writes to the state on behalf of a request passes its writes through here. Without a
request (control loops, upkeep) nothing is added, nor for requests whose route is not recorded.
"""

import itertools

from essaim_master.http.acting import acting
from essaim_master.state.audit_records import record_number, target_of
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.writes import Writes
from essaim_shared.clock import Clock
from essaim_shared.ids import MemberId
from essaim_shared.trust_objects import AuditRecord

TARGET_CHARS_MAX = 200


class AuditTrail:
    """One for each part of a master that writes."""

    def __init__(self, state: ClusterState, member_id: MemberId, clock: Clock, part: str) -> None:
        """`part`: its name, another one than those of the other parts."""
        self._state = state
        self._member_id = member_id
        self._clock = clock
        self._writer = f"{member_id}.{part}"
        self._counts = itertools.count(1)

    def add(self, writes: Writes) -> None:
        """Once for each transaction."""
        one = acting()
        if one is not None and one.action and writes:
            self.add_of(writes, target_of(writes, self._state))

    def add_of(self, writes: Writes, target: str, detail: str = "") -> None:
        """For what its writes do not tell, or what the state does not hold."""
        one = acting()
        if one is None or not one.action:
            return
        now_ns = self._clock.wall_ns()
        writes.put(
            AuditRecord(
                number=record_number(now_ns, self._writer, next(self._counts)),
                who=one.caller.who,
                source=one.caller.address,
                action=one.action,
                target=target[:TARGET_CHARS_MAX],
                at_ns=now_ns,
                master=self._member_id,
                detail=detail,
            )
        )
