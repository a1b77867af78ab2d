"""`docker swarm join-token` and `docker swarm ca`, by the clients on this machine."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.docker_clients import docker_commands, run_docker, succeed
from support.trusted_site import CLOCK, WAIT_S, TrustedSite

from essaim_master.authority.rotation import Step, step_of
from essaim_master.control.registration import write_registration
from essaim_master.http.swarm import HIDDEN_TOKEN
from essaim_master.http.swarm_trust import rotations_begun
from essaim_master.state.writes import Writes
from essaim_shared.clock import wait_until
from essaim_shared.ids import NodeId
from essaim_shared.objects import NodeDescription
from essaim_shared.trust.roles import Role


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[TrustedSite]:
    made = TrustedSite(tmp_path, 90 * 86_400)
    await made.start()
    description = NodeDescription(
        hostname="h1",
        address="127.0.0.1",
        architecture="amd64",
        nano_cpus=1,
        memory_bytes=1,
        engine_version="20.10.24",
    )
    writes = Writes()
    write_registration(made.founded.state, NodeId("node1"), description, 1, writes)
    await made.founded.commit(writes)
    yield made
    await made.server.stop()


@pytest.fixture(params=docker_commands())
def docker(request: pytest.FixtureRequest, site: TrustedSite, tmp_path: Path):
    return lambda *words: run_docker(request.param, site.root / "s", tmp_path, *words)


async def test_join_tokens_are_shown_and_replaced(site: TrustedSite, docker) -> None:
    before = site.founded.desk.tokens()
    shown = await succeed(docker, "swarm", "join-token", "-q", "worker")
    assert shown.strip() == before[Role.AGENT].text
    await succeed(docker, "swarm", "join-token", "--rotate", "-q", "manager")
    after = site.founded.desk.tokens()
    assert after[Role.AGENT] == before[Role.AGENT]
    assert after[Role.MASTER].secret != before[Role.MASTER].secret


async def test_the_authority_is_shown_and_replaced(site: TrustedSite, docker) -> None:
    anchors = site.founded.state.trust_anchors
    assert anchors is not None
    assert (await succeed(docker, "swarm", "ca")).strip().encode() == anchors.signing.strip()
    nodes = await succeed(docker, "node", "ls", "--format", "{{.TLSStatus}}")
    assert nodes.split() == ["Ready"]

    keepers = [site.renewal("agent"), site.renewal("master")]
    running = [asyncio.ensure_future(keeper.run()) for keeper in keepers]
    rotating = asyncio.ensure_future(docker("swarm", "ca", "--rotate"))
    try:
        assert await wait_until(lambda: rotations_begun(newest(site)) == 1, CLOCK, WAIT_S)
        nodes = await succeed(docker, "node", "ls", "--format", "{{.TLSStatus}}")
        assert nodes.split() == ["Needs", "Rotation"]
        deadline_s = CLOCK.monotonic_s() + WAIT_S
        while not rotating.done():
            assert CLOCK.monotonic_s() < deadline_s
            await site.founded.upkeep.turn()
            for keeper in keepers:
                keeper.note(newest(site).generation)
            await CLOCK.sleep(0.1)
        code, out, err = await rotating
        assert code == 0, err
        assert newest(site).signing.decode().strip() in out
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert step_of(newest(site)) is Step.SETTLED
    assert rotations_begun(newest(site)) == 1
    nodes = await succeed(docker, "node", "ls", "--format", "{{.TLSStatus}}")
    assert nodes.split() == ["Ready"]


def newest(site: TrustedSite):
    anchors = site.founded.state.trust_anchors
    assert anchors is not None
    return anchors


async def test_who_may_only_look_is_shown_no_token(site: TrustedSite) -> None:
    admin = await site.ask("/swarm", tls=site.tls["admin"].client)
    assert site.founded.desk.tokens()[Role.AGENT].text in admin.body.decode()
    writes = Writes()
    user = site.founded.state.users["admin"]
    writes.put(type(user)(name="admin", role="viewer", created_ns=user.created_ns))
    await site.founded.commit(writes)
    viewer = await site.ask("/swarm", tls=site.tls["admin"].client)
    assert viewer.body.decode().count(HIDDEN_TOKEN) == 2


async def test_another_authority_than_ours_is_refused(site: TrustedSite, docker, tmp_path) -> None:
    words = []
    for flag, pem in (
        ("--ca-cert", site.founded.founding.authority_pem),
        ("--ca-key", site.founded.founding.authority_key_pem),
    ):
        path = tmp_path / flag
        path.write_bytes(pem)
        words += [flag, str(path)]
    code, _, err = await docker("swarm", "ca", "--rotate", "--detach", *words)
    assert code != 0
    assert "cannot be changed: the masters make the authority themselves" in err
    assert step_of(newest(site)) is Step.SETTLED
