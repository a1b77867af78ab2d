"""What no agent of ours sends is refused before it is written."""

import msgspec
import pytest

from essaim_master.control.registration import (
    DESCRIPTION_BYTES_MAX,
    LISTENING_MAX,
    ROUTES_MAX,
    check_registration,
    crowd_refusal,
)
from essaim_master.kv.commands import Put, Transaction
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.keys import node_key
from essaim_shared.clock import ManualClock
from essaim_shared.errors import MalformedMessage
from essaim_shared.limits import NODES_MAX
from essaim_shared.messages import Register
from essaim_shared.objects import NodeDescription, NodeObject
from essaim_shared.spec import NodeSpec


def register(node_id="n1", **described):
    facts = {
        "hostname": "h1",
        "address": "192.0.2.1",
        "architecture": "x86_64",
        "nano_cpus": 1,
        "memory_bytes": 1,
        "engine_version": "20.10",
    }
    return Register(node_id=node_id, description=NodeDescription(**{**facts, **described}))


def test_what_an_agent_sends_is_accepted():
    check_registration(
        register(routes=("10.0.0.0/8",) * ROUTES_MAX, listening=("tcp/22",) * LISTENING_MAX)
    )


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (register("a/b"), "is no node id"),
        (register(address=""), "names '', which is no IPv4 address of a host"),
        (register(address="h1"), "is no IPv4 address of a host"),
        (register(address="192.0.2.1/24"), "is no IPv4 address of a host"),
        (register(address="fe80::1"), "is no IPv4 address of a host"),
        (register(address="0.0.0.0"), "is no IPv4 address of a host"),
        (register(address="224.0.0.1"), "is no IPv4 address of a host"),
        (register(address="255.255.255.255"), "is no IPv4 address of a host"),
        (register(engine_version="x" * DESCRIPTION_BYTES_MAX), "bytes, over 262144"),
        (register(hostname=""), "no host name"),
        (register(routes=("10.0.0.0/8",) * (ROUTES_MAX + 1)), "names 1025 routes, over 1024"),
        (register(listening=("tcp/22",) * (LISTENING_MAX + 1)), "names 4097 ports, over 4096"),
    ],
)
def test_what_none_sends_is_not(request_, sentence):
    with pytest.raises(MalformedMessage, match=sentence):
        check_registration(request_)


async def test_a_full_cluster_takes_no_new_node_and_keeps_those_it_has():
    cluster = LocalCluster(ManualClock(), Member("h1", "h1:1", "h1:2"))
    node = NodeObject(id="n", spec=NodeSpec(), created_ns=0, updated_ns=0)
    value = msgspec.msgpack.encode(node)
    for number in range(NODES_MAX - 1):
        put = Put(node_key(f"n{number}"), value)
        await cluster.commit(Transaction(then=(put,)), 1.0)
    assert crowd_refusal(cluster.state, "new") is None
    await cluster.commit(Transaction(then=(Put(node_key("last"), value),)), 1.0)
    assert f"has {NODES_MAX} nodes, which is the limit" in crowd_refusal(cluster.state, "new")
    assert crowd_refusal(cluster.state, "n0") is None
