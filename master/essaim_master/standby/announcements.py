"""What a master that stands by tells the leader once a second, and what it is told. Pure.

The leader remembers it in memory only: it is true for some seconds, and a new leader hears it
again within one.
"""

import msgspec

from essaim_master.state.cluster import Member
from essaim_shared.errors import Unavailable
from essaim_shared.ids import MemberId

ANNOUNCE_PERIOD_S = 1.0
SILENCE_S = 4.0
"""A master that announced itself so long ago stands by no more."""
STANDBYS_MAX = 64
"""Remembered at the same time: as many as no cluster has, so that nobody fills the memory."""


class Announcement(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=False,
    rename={
        "cluster_id": "ClusterID",
        "id": "ID",
        "raft": "Addr",
        "http": "HTTPAddr",
        "version": "Version",
        "build": "Build",
    },
):
    """The body of POST /essaim/cluster/standbys. Fields that are not known belong to newer
    builds."""

    cluster_id: str
    id: MemberId
    """The name under which it will take part."""
    raft: str
    """`HOST:PORT`, as `http`: where it listens, or will."""
    http: str
    version: int
    """The newest cluster version that it speaks."""
    build: str

    @property
    def member(self) -> Member:
        return Member(self.id, self.raft, self.http)


class Told(
    msgspec.Struct,
    frozen=True,
    rename={
        "standing": "Standing",
        "members": "Members",
        "incarnation": "Incarnation",
        "trust_generation": "TrustGeneration",
    },
):
    """The answer."""

    standing: str
    """`standby`; `member`: it was added and is to take part; `removed`: the name is used up."""
    members: tuple["ToldMember", ...]
    """Where the masters are now."""
    incarnation: str = ""
    """Of the cluster, for a log that begins."""
    trust_generation: int = 0
    """Of the cluster's trust anchors; 0: it has none."""


class ToldMember(
    msgspec.Struct, frozen=True, rename={"id": "ID", "raft": "Addr", "http": "HTTPAddr"}
):
    id: MemberId
    raft: str
    http: str


class Standbys:
    """Who stands by, as far as this leader heard."""

    def __init__(self) -> None:
        self._heard: dict[MemberId, tuple[Announcement, float]] = {}

    def hear(self, announcement: Announcement, now_s: float) -> None:
        """Raises Unavailable when there are too many."""
        self._forget_silent(now_s)
        if announcement.id not in self._heard and len(self._heard) >= STANDBYS_MAX:
            raise Unavailable(f"{STANDBYS_MAX} masters stand by already: end some of them")
        self._heard[announcement.id] = (announcement, now_s)

    def forget(self, member_id: MemberId) -> None:
        self._heard.pop(member_id, None)

    def present(self, now_s: float) -> tuple[Announcement, ...]:
        """In order of their names."""
        self._forget_silent(now_s)
        return tuple(found for _, (found, _) in sorted(self._heard.items()))

    def _forget_silent(self, now_s: float) -> None:
        for member_id, (_, heard_s) in tuple(self._heard.items()):
            if now_s - heard_s > SILENCE_S:
                del self._heard[member_id]
