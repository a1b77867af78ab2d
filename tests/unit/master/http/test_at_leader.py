"""A request that only the leader carries out goes from master to master, and not in circles."""

import random

import pytest
from starlette.requests import Request

from essaim_master.http.api import Api
from essaim_master.http.at_leader import HOPS_MAX, at_leader
from essaim_master.http.peer_requests import FORWARDED_HEADER
from essaim_master.raft.errors import NotLeader
from essaim_shared.errors import NoLeader
from essaim_shared.http_call import Answer


class Follower:
    """A master that hands on what it is asked."""

    def __init__(self, world) -> None:
        self.hops: list[int] = []
        self._leader = world.cluster.members[0].id
        rng = random.Random(1)
        self._api = Api(
            world.cluster, world.clock, rng, world.figures, world.api.facts, ask_master=self._ask
        )

    async def asked(self, hops: str | None) -> int:
        headers = (
            [] if hops is None else [(FORWARDED_HEADER.lower().encode(), hops.encode("latin-1"))]
        )
        request = Request({"type": "http", "method": "POST", "path": "/x", "headers": headers})
        return (await at_leader(self._api, request, "POST", "/x", b"", self._act)).status_code

    async def _act(self) -> None:
        raise NotLeader(self._leader)

    async def _ask(self, address, method, target, *, hops, timeout_s, body=b"") -> Answer:
        self.hops.append(hops)
        return Answer(200, b"{}")


async def test_each_master_counts_one_hop_more(world) -> None:
    follower = Follower(world)
    for hops in (None, *map(str, range(HOPS_MAX))):
        assert await follower.asked(hops) == 200
    assert follower.hops == [1, *range(1, HOPS_MAX + 1)]


@pytest.mark.parametrize("hops", [str(HOPS_MAX), "-1", "x", "", "²", "1" * 5000])
async def test_after_so_many_hops_and_for_what_is_no_number_nobody_is_asked(world, hops) -> None:
    follower = Follower(world)
    with pytest.raises(NoLeader, match="no leader that they agree on"):
        await follower.asked(hops)
    assert follower.hops == []
