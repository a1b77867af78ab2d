"""Credentials reach the nodes that run a service, and nobody else can read them."""

import asyncio

import msgspec
import pytest

from essaim_agent.executor import ExecutorError
from essaim_agent.registry_logins import RegistryLogins
from essaim_master.vault import Vault
from essaim_shared.ids import NodeId, ServiceId
from essaim_shared.messages import encode
from essaim_shared.objects import RegistryCredentials
from essaim_shared.sealing import DataKey, new_key_pair

LOGIN = {"username": "alice", "password": "tell-nobody"}
VAULT = Vault(DataKey(bytes(32)))
"""With the key of the bench's leader."""


async def with_credentials(bench, name="web", vault=VAULT):
    service_id = ServiceId(name)
    sealed = vault.seal_credentials(service_id, msgspec.json.encode(LOGIN))
    await bench.write(RegistryCredentials(service_id=service_id, sealed=sealed))
    return await bench.create(1, name)


def agents_of(bench, count):
    """Agents that announce a key, with what opens what is sealed to them."""
    logins = {}
    for number in range(1, count + 1):
        pair = new_key_pair()
        agent = bench.add_agent(f"n{number}", f"192.168.0.{number}", seal_key=pair.public_text)
        logins[agent.node_id] = RegistryLogins(agent.node_id, pair)
    return logins


def received(agent):
    return [item for message in agent.messages for item in message.credentials]


async def test_only_the_node_of_the_task_gets_them_and_can_open_them(bench):
    logins = agents_of(bench, 3)
    await bench.until(lambda: len(bench.state.nodes) == 3)
    web = await with_credentials(bench)
    await bench.until(lambda: bench.is_in_order(web))
    (task,) = bench.seen_running(web)
    for agent in bench.agents:
        assert bool(received(agent)) is (agent.node_id == task.node_id)
    (sent,) = received(next(agent for agent in bench.agents if agent.node_id == task.node_id))
    mine = logins.pop(task.node_id)
    mine.take([sent])
    assert mine.of(web) == LOGIN
    for other in logins.values():
        other.take([sent])
        with pytest.raises(ExecutorError, match="sealed to another key"):
            other.of(web)


async def test_nothing_on_the_bus_or_in_the_state_or_the_log_shows_them(bench, caplog):
    caplog.set_level(0)
    agents_of(bench, 2)
    await bench.until(lambda: len(bench.state.nodes) == 2)
    web = await with_credentials(bench)
    await bench.until(lambda: bench.is_in_order(web))
    assert any(received(agent) for agent in bench.agents)
    sent = b"".join(encode(message) for agent in bench.agents for message in agent.messages)
    stored = b"".join(found.value for found in bench.state.store.range(b"/"))
    assert b"alice" not in sent + stored
    assert b"tell-nobody" not in sent + stored
    assert "tell-nobody" not in caplog.text


async def test_a_node_that_comes_back_gets_them_again_with_its_full_set(bench):
    agents_of(bench, 1)
    await bench.until(lambda: len(bench.state.nodes) == 1)
    web = await with_credentials(bench)
    await bench.until(lambda: bench.is_in_order(web))
    (agent,) = bench.agents
    agent.messages.clear()
    agent.session = None
    await bench.until(lambda: any(message.full for message in agent.messages))
    assert len(received(agent)) == 1


async def test_a_leader_with_another_key_sends_the_task_without_and_says_so_once(bench, caplog):
    agents_of(bench, 1)
    await bench.until(lambda: len(bench.state.nodes) == 1)
    web = await with_credentials(bench, vault=Vault(DataKey(bytes(31) + b"\1")))
    await bench.scale(web, 3)
    await bench.until(lambda: bench.is_in_order(web))
    assert received(bench.agents[0]) == []
    assert caplog.text.count("registry credentials not sent") == 1
    assert "give all masters the same seal_key_file" in caplog.text


async def test_an_agent_of_an_older_version_gets_the_task_without(bench):
    agent = bench.add_agent("n1", "192.168.0.1")
    await bench.until(lambda: len(bench.state.nodes) == 1)
    web = await with_credentials(bench)
    await bench.until(lambda: bench.is_in_order(web))
    assert received(agent) == []


async def test_a_task_that_is_stopped_brings_none(bench):
    agents_of(bench, 1)
    await bench.until(lambda: len(bench.state.nodes) == 1)
    web = await with_credentials(bench)
    await bench.until(lambda: bench.is_in_order(web))
    (agent,) = bench.agents
    agent.messages.clear()
    await bench.scale(web, 0)
    await bench.until(lambda: bench.is_in_order(web))
    await asyncio.sleep(0)
    assert received(agent) == []


def test_logins_are_forgotten_with_the_last_task_and_kept_sealed():
    pair = new_key_pair()
    node = NodeId("n1")
    logins = RegistryLogins(node, pair)
    for name in ("web", "api"):
        service_id = ServiceId(name)
        sealed = VAULT.seal_credentials(service_id, msgspec.json.encode(LOGIN))
        stored = RegistryCredentials(service_id=service_id, sealed=sealed)
        logins.take([VAULT.credentials_for_node(stored, node, pair.public_text)])
    assert all(b"tell-nobody" not in item.sealed for item in logins.sealed)
    logins.keep_only([ServiceId("api"), ServiceId("other")])
    assert logins.of(ServiceId("web")) is None
    assert logins.of(ServiceId("api")) == LOGIN
