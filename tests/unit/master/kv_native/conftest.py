"""Servers and clients of the native key-value protocol, started and stopped."""

import random
from collections.abc import AsyncIterator, Callable

import pytest
from support.kv_native import CLOCK, AloneNode, RawClient, Trio, new_server

from essaim_master.kv_server import KvServer
from essaim_shared.kv_client import KvClient


@pytest.fixture
def alone() -> AloneNode:
    return AloneNode()


@pytest.fixture
async def server(alone: AloneNode) -> AsyncIterator[KvServer]:
    started = new_server(alone, alone.store)
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
async def new_client() -> AsyncIterator[Callable[..., KvClient]]:
    """Makes opened clients of some servers."""
    made: list[KvClient] = []

    async def make(*servers: KvServer, cluster_id: str = "") -> KvClient:
        addresses = [server.listening for server in servers]
        client = KvClient(addresses, CLOCK, random.Random(len(made)), cluster_id)
        made.append(client)
        await client.open()
        return client

    yield make
    for client in made:
        await client.close()


@pytest.fixture
async def trio() -> AsyncIterator[Trio]:
    made = Trio(11)
    await made.start()
    yield made
    await made.stop()
    await made.network.close()
    assert made.fatal_errors == []


@pytest.fixture
async def raw(server: KvServer) -> AsyncIterator[RawClient]:
    """A connection with a session."""
    client = await RawClient.with_session(server)
    yield client
    await client.close()
