"""Answers that go on end when whoever asked is not let in any more."""

import asyncio

import msgspec
import pytest
from support.callers import ROOT, STRANGER, user_with_token

from essaim_master.http.kv_watch_stream import NOT_ALLOWED, PROGRESS_S
from essaim_master.versions import CLUSTER_VERSION
from essaim_shared.objects import ClusterVersion

S_NS = 1_000_000_000
VALID_S = 3600


class Follower:
    """A user with a token, and what he is told."""

    def __init__(self, world, path, token):
        headers = {"Authorization": f"Bearer {token.text}"}
        self._reading = asyncio.create_task(
            world.call("GET", path, headers=headers, chunks=[], peer=STRANGER)
        )

    @property
    def is_reading(self):
        return not self._reading.done()

    async def lines(self):
        answer = await asyncio.wait_for(self._reading, 5)
        assert answer.status == 200
        return [msgspec.json.decode(line) for line in answer.body.splitlines()]


@pytest.fixture(params=["/essaim/kv/watch?prefix=", "/essaim/audit?follow=1"])
async def follower(guarded, request):
    expires_ns = guarded.clock.wall_ns() + VALID_S * S_NS
    user, token = user_with_token("ann", "admin", expires_ns=expires_ns)
    spare, _ = user_with_token("bob", "admin")
    version = ClusterVersion(version=CLUSTER_VERSION)
    await guarded.write(lambda writes: [writes.put(one) for one in (user, spare, version)])
    made = Follower(guarded, request.param, token)
    await settle()
    assert made.is_reading
    return made


async def settle():
    for _ in range(30):
        await asyncio.sleep(0)


async def write_both(world):
    """What either stream tells."""
    assert (await world.call("PUT", "/essaim/kv/keys/a", {"Value": "x"}, peer=ROOT)).status == 200
    user = {"Name": "eve", "Role": "viewer"}
    assert (await world.call("POST", "/essaim/users", user, peer=ROOT)).status == 201
    await settle()


def told(lines):
    return [one for one in lines if one.get("Events") or "Who" in one]


async def test_who_is_let_in_is_told_what_comes(guarded, follower):
    await write_both(guarded)
    guarded.app.close()
    lines = await follower.lines()
    assert told(lines)
    assert all("Error" not in one for one in lines)


async def test_a_user_who_was_removed_is_told_nothing_that_came_after(guarded, follower):
    assert (await guarded.call("DELETE", "/essaim/users/ann", peer=ROOT)).status == 204
    await write_both(guarded)
    lines = await follower.lines()
    assert told(lines) == []
    assert lines[-1]["Error"] == NOT_ALLOWED


async def test_a_token_that_ends_ends_what_was_begun_with_it(guarded, follower):
    await guarded.clock.advance(VALID_S - 1)
    await settle()
    assert follower.is_reading
    await guarded.clock.advance(1 + PROGRESS_S)
    await settle()
    assert (await follower.lines())[-1]["Error"] == NOT_ALLOWED
