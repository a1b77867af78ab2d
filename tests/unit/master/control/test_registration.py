"""What no agent of ours sends is refused before it is written."""

import pytest

from essaim_master.control.registration import LISTENING_MAX, ROUTES_MAX, check_registration
from essaim_shared.errors import MalformedMessage
from essaim_shared.messages import Register
from essaim_shared.objects import NodeDescription


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
        (register(address=""), "names no address"),
        (register(hostname=""), "no host name"),
        (register(routes=("10.0.0.0/8",) * (ROUTES_MAX + 1)), "names 1025 routes, over 1024"),
        (register(listening=("tcp/22",) * (LISTENING_MAX + 1)), "names 4097 ports, over 4096"),
    ],
)
def test_what_none_sends_is_not(request_, sentence):
    with pytest.raises(MalformedMessage, match=sentence):
        check_registration(request_)
