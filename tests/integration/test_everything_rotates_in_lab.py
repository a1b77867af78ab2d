"""Authority, join tokens, certificates and data keys replaced in a running cluster, at once and
under load: no write is lost, no task is touched."""

import random

import pytest
from support.kv_load import under_load
from support.lab_cluster import WEB, Cluster
from support.lab_flows import starts_of, until_settled

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(180)]

WRITES = 100


async def test_no_write_and_no_task_is_lost(cluster: Cluster) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    await cluster.ok("service", "create", "--name", "web", "--replicas", "6", WEB)
    await until_settled(cluster, "web", 6)
    before = await starts_of(cluster, "web")
    masters = cluster.topology.masters
    # By the admin's certificate, which is renewed with the rotation that he asks for.
    identity = cluster.topology.admin_identity_dir
    host = f"tcp://{masters[0].address}:{masters[0].http_port}"
    admin = ("--identity", str(identity), "--host", host)
    tokens = await _join_tokens(cluster)
    async with under_load(masters, cluster.clock, random.Random(seed)) as load:
        done = await cluster.ok(*admin, "cluster", "ca", "--rotate")
        assert "settled: the authority is believed alone" in done.stdout
        for kind in ("worker", "master"):
            await cluster.ok("cluster", "join-token", "--rotate", kind)
        for host in masters:
            await cluster.ok("cluster", "rotate-data-key", at=host.name)
        took_s = await load.until_writes(WRITES)
        print(f"{WRITES} more writes: {took_s:.2f} s; {load.writes} in all")
    load.check()
    await load.check_masters_agree()
    assert set(tokens).isdisjoint(await _join_tokens(cluster))
    await until_settled(cluster, "web", 6)
    assert await starts_of(cluster, "web") == before
    # And all of it still works: a new task on each node, named by its new certificates.
    await cluster.ok("service", "scale", "web=9")
    await until_settled(cluster, "web", 9)


async def _join_tokens(cluster: Cluster) -> list[str]:
    shown = [await cluster.ok("cluster", "join-token", "-q", kind) for kind in ("worker", "master")]
    return [done.stdout.strip() for done in shown]
