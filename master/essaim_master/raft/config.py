"""The numbers of one member. Times are in ticks of 100 ms."""

import msgspec

from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId

KIB = 1024
MIB = 1024 * KIB


class RaftConfig(msgspec.Struct, frozen=True):
    """How one member behaves; all members of a cluster should be given the same numbers.

    Pre-vote and check-quorum have no switch: without the two together a member that hears only
    a part of the others can depose a working leader again and again (rule 1).
    """

    member_id: MemberId
    election_ticks_min: int = 6
    """A member that heard its leader within this many ticks refuses to vote. A leader that a
    quorum has not answered for as long steps down."""
    election_ticks_max: int = 12
    """Followers campaign after a silence drawn evenly from [min, max) for each wait."""
    heartbeat_ticks: int = 1
    append_bytes_max: int = 256 * KIB
    """Entries of one message; a single larger entry still travels, alone."""
    inflight_messages_max: int = 128
    """Appends sent to one follower and not yet acknowledged."""
    uncommitted_bytes_max: int = 64 * MIB
    """Proposals are dropped beyond this, so that a leader without a quorum cannot grow for ever."""
    committed_bytes_per_ready_max: int = 4 * MIB
    """Committed entries handed out in one turn, so that applying never starves the ticks."""
    inflight_bytes_max: int = 16 * MIB
    """Entry bytes sent to one follower and not yet acknowledged."""

    def validate(self) -> None:
        """Raise ConfigError, naming the field, unless the numbers can work together."""
        if not self.member_id:
            raise ConfigError("member_id is empty: give this master a name")
        for field in (
            "heartbeat_ticks",
            "append_bytes_max",
            "inflight_messages_max",
            "uncommitted_bytes_max",
            "committed_bytes_per_ready_max",
            "inflight_bytes_max",
        ):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} is {getattr(self, field)}: it must be at least 1")
        if self.election_ticks_min <= self.heartbeat_ticks:
            raise ConfigError(
                f"election_ticks_min is {self.election_ticks_min} and heartbeat_ticks"
                f" {self.heartbeat_ticks}: one lost heartbeat would start an election"
            )
        if self.election_ticks_max <= self.election_ticks_min:
            raise ConfigError(
                f"election_ticks_max is {self.election_ticks_max}: it must exceed"
                f" election_ticks_min ({self.election_ticks_min}), or members campaign in step"
            )
