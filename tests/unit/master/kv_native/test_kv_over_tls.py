"""The native key-value protocol over TLS: whom a master lets at its store."""

import asyncio
import logging
import random

import pytest
from support.identities import Identities
from support.kv_native import CLOCK, MEMBERS, WAIT_S, AloneNode, new_server, until

from essaim_master.kv_admission import ClientTrust
from essaim_master.kv_server import KvServer
from essaim_shared.errors import Unavailable
from essaim_shared.kv_client import KvClient
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import PeerCertificate, Tls


class Store:
    """One master's store behind TLS, and what the cluster has against whom."""

    def __init__(self, root) -> None:
        self.identities = Identities(root, CLOCK.wall_ns())
        self.against: dict[str, str] = {}
        trust = ClientTrust(self.identities.tls(MEMBERS[0]), "lab", self.why_not)
        alone = AloneNode()
        self.server: KvServer = new_server(alone, alone.store, trust=trust)
        self.clients: list[KvClient] = []

    def why_not(self, certificate: PeerCertificate) -> str | None:
        return self.against.get(certificate.name)

    async def client(self, tls: Tls | None) -> KvClient:
        client = KvClient([self.server.listening], CLOCK, random.Random(1), tls=tls)
        await client.open()
        self.clients.append(client)
        return client


@pytest.fixture
async def store(tmp_path):
    made = Store(tmp_path)
    await made.server.start()
    yield made
    for client in made.clients:
        await client.close()
    await made.server.stop()


@pytest.mark.parametrize("role", [Role.USER, Role.MASTER])
async def test_users_and_masters_write_and_read(store, role) -> None:
    client = await store.client(store.identities.tls("ann", role))
    assert await client.put(b"a", b"1" * 300_000) == 1
    assert (await client.get(b"a")).value == b"1" * 300_000


@pytest.mark.parametrize(
    ("how", "client_says", "master_says"),
    [
        (
            {"role": Role.AGENT},
            "only users and masters may use the key-value store",
            "it shows the certificate of essaim-agent 'ann'",
        ),
        ({"role": Role.USER, "cluster_id": "other"}, "this is cluster 'lab'", "cluster 'other'"),
        ({"role": Role.USER, "is_foreign": True}, "of another cluster", "not to be believed"),
        ({"role": Role.USER, "lifetime_s": -1}, "certificate has expired", "has expired"),
        (None, "closed before the welcome", "does not speak TLS"),
    ],
)
async def test_who_may_not_is_told_why(store, caplog, how, client_says, master_says) -> None:
    caplog.set_level(logging.INFO)
    tls = None if how is None else store.identities.tls("ann", **how)
    client = await store.client(tls)
    with pytest.raises(Unavailable):
        await client.put(b"a", b"1", timeout_s=0.3)
    refused = "refused a key-value client: "
    assert any(refused in line and master_says in line for line in caplog.messages)
    assert any(client_says in line for line in caplog.messages if refused not in line)


async def test_whom_the_cluster_no_longer_knows_is_cut_off(store, caplog) -> None:
    client = await store.client(store.identities.tls("ann", Role.USER))
    other = await store.client(store.identities.tls("bob", Role.USER))
    await asyncio.gather(client.put(b"a", b"1"), other.put(b"b", b"1"))
    store.against["ann"] = "there is no user 'ann'"
    store.server.recheck()
    await until(lambda: client.connected_to is None, "ann is cut off")
    with pytest.raises(Unavailable):
        await client.put(b"a", b"2", timeout_s=0.3)
    assert any("there is no user 'ann'" in line for line in caplog.messages)
    assert await other.put(b"b", b"2", timeout_s=WAIT_S) == 3


def test_with_tls_any_address_may_be_listened_on(tmp_path) -> None:
    trust = ClientTrust(Identities(tmp_path, CLOCK.wall_ns()).tls("m1"), "lab")
    alone = AloneNode()
    for host in ("0.0.0.0", "8.8.8.8", "::"):
        KvServer(
            alone, alone.store, CLOCK, random.Random(1), "c1", MEMBERS[0], (host, 0), bool, trust
        )
