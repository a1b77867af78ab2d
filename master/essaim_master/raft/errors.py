"""What the core raises for its caller to act on.

    Unavailable
    ├── NoLeader
    │   └── NotLeader        ask the member named in `leader`, or wait for an election
    └── ProposalDropped      nothing was appended; the same proposal may succeed later
    InvalidRequest
    ├── TransferRefused      the member named cannot become the leader
    └── MembershipRefused    the members cannot be changed in this way, as they are now

`MalformedMessage` of the shared tree is raised by `step` for a datagram that no correct member
sends; the caller drops it, says so in its log, and closes the link it came by.
"""

from essaim_shared.errors import InvalidRequest, NoLeader, Unavailable
from essaim_shared.ids import MemberId


class NotLeader(NoLeader):
    """This member may not append. `leader` is who may, as far as it knows; None: nobody known."""

    def __init__(self, leader: MemberId | None) -> None:
        self.leader = leader
        where = f"ask {leader}" if leader is not None else "an election is under way; ask again"
        super().__init__(f"this master is not the leader: {where}")


class ProposalDropped(Unavailable):
    """Nothing of the batch was appended, so it may be proposed again without doubling."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the proposal was not taken: {reason}; ask again")


class TransferRefused(InvalidRequest):
    """Leadership cannot go to the member named, and why."""


class MembershipRefused(InvalidRequest):
    """The members cannot be changed like this, and why; nothing was appended."""
