"""Errors of the master as a whole.

ConfigError
└── MemberRemoved          this master is no longer part of its cluster
EssaimError
└── TooManyRequests  429   ask less often
"""

from essaim_master.state.cluster import Member
from essaim_shared.errors import ConfigError, EssaimError
from essaim_shared.ids import MemberId


class MemberRemoved(ConfigError):
    """It ends, and starting it again will not help; or it stands by from now on, if its
    configuration says so."""

    def __init__(self, member_id: MemberId, others: tuple[Member, ...] = ()) -> None:
        """`others`: the masters that it knew in the end."""
        self.member_id = member_id
        self.others = others
        super().__init__(
            f"master {member_id} was removed from the cluster and stops; to bring this host back, "
            "add it under a new name (essaim cluster members add) with an empty data directory"
        )


class TooManyRequests(EssaimError):
    http_status = 429

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        """After so long the same request is taken."""
