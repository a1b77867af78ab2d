"""What `node ls` and `node inspect --pretty` print, whole."""

import json

from support.trusted_state import identity_of

from essaim_cli.formatting import table
from essaim_cli.pretty import pretty_node
from essaim_master.state.writes import Writes
from essaim_shared.trust.roles import Role

NODE = {
    "ID": "9tnqxq6pkr0adr4d3ajhcm6ag",
    "CreatedAt": "2026-11-20T08:00:00Z",
    "Spec": {
        "Name": "h1",
        "Labels": {"zone": "b", "disk": "ssd"},
        "Role": "manager",
        "Availability": "active",
    },
    "Description": {
        "Hostname": "h1",
        "Platform": {"Architecture": "x86_64", "OS": "linux"},
        "Resources": {
            "NanoCPUs": 4_000_000_000,
            "MemoryBytes": 8 << 30,
            "GenericResources": [
                {"NamedResourceSpec": {"Kind": "gpu", "Value": "GPU-1"}},
                {"NamedResourceSpec": {"Kind": "gpu", "Value": "GPU-2"}},
                {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 3}},
            ],
        },
        "Engine": {
            "EngineVersion": "28.2.0",
            "Labels": {"rack": "7"},
            "Plugins": [
                {"Type": "Log", "Name": "json-file"},
                {"Type": "Log", "Name": "local"},
                {"Type": "Volume", "Name": "local"},
            ],
        },
    },
    "Status": {"State": "ready", "Addr": "192.0.2.1"},
    "ManagerStatus": {"Leader": True, "Reachability": "reachable", "Addr": "192.0.2.1:7401"},
}

PRETTY = """\
ID:              9tnqxq6pkr0adr4d3ajhcm6ag
Labels:
 - disk=ssd
 - zone=b
Hostname:        h1
Joined at:       2026-11-20T08:00:00Z
Status:
 State:          Ready
 Availability:   Active
 Address:        192.0.2.1
Manager Status:
 Address:        192.0.2.1:7401
 Raft Status:    Reachable
 Leader:         Yes
Platform:
 Operating System: linux
 Architecture:   x86_64
Resources:
 CPUs:           4
 Memory:         8GiB
 gpu:            GPU-1, GPU-2
 ssd:            3
Plugins:
 Log:            json-file, local
 Volume:         local
Engine Version:  28.2.0
Engine Labels:
 - rack=7"""

HEADINGS = ("ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ENGINE VERSION")
ROWS = (
    ("node1 *", "h1", "Ready", "Active", "Leader", "20.10.24", "12.5%", "1GiB / 4GiB"),
    ("node2", "h2", "Ready", "Drain", "", "20.10.24", "12.5%", "1GiB / 4GiB"),
    ("node3", "h10", "Ready", "Active", "", "20.10.24", "12.5%", "1GiB / 4GiB"),
)


def test_a_node_for_people() -> None:
    assert pretty_node(NODE, None) == PRETTY


async def test_the_list_of_nodes(master) -> None:
    await master.ok("node", "update", "--availability", "drain", "h2")
    listed = await master.ok("node", "ls")
    expected = table((*HEADINGS, "CPU %", "MEM USAGE / TOTAL"), ROWS)
    assert listed.rstrip("\n") == expected


async def test_the_placeholders_of_docker(master) -> None:
    template = "{{.Hostname}} {{.Self}} {{.Status}} {{.Availability}} {{.TLSStatus}}"
    lines = (await master.ok("node", "ls", "--format", template)).splitlines()
    assert lines == [
        "h1 true Ready Active Unknown",
        "h2 false Ready Active Unknown",
        "h10 false Ready Active Unknown",
    ]


async def test_labels_are_added_changed_and_removed(master) -> None:
    await master.ok("node", "update", "--label-add", "a=1", "--label-add", "b", "h1")
    await master.ok("node", "update", "--label-rm", "a", "--label-add", "b=2", "h1")
    assert await labels(master, "h1") == {"b": "2"}
    refused = await master.run("node", "update", "--label-rm", "a", "--label-add", "c=3", "h1")
    assert refused.code == 1
    assert "key 'a' doesn't exist in node's labels" in refused.err
    assert await labels(master, "h1") == {"b": "2"}, "nothing is done by halves"


async def test_a_bad_availability_is_a_bad_flag(master) -> None:
    refused = await master.run("node", "update", "--availability", "gone", "h1")
    assert refused.code == 125
    assert "'gone'" in refused.err


async def labels(master, name):
    return json.loads(await master.ok("node", "inspect", name))[0]["Spec"]["Labels"]


async def test_a_node_that_was_cut_off_shows_it_and_is_let_in_again(master) -> None:
    identity = identity_of(Role.AGENT, "node2", suspended="it floods the bus")
    writes = Writes()
    writes.put(identity)
    await master.write(writes)
    status = ("node", "ls", "--format", "{{.Hostname}} {{.Status}}")
    assert "h2 Ready (suspended)" in await master.ok(*status)
    assert await master.ok("node", "readmit", "h2") == "h2\n"
    assert "h2 Ready\n" in await master.ok(*status)
    refused = await master.run("node", "readmit", "nobody")
    assert refused.code == 1
    assert "node nobody not found" in refused.err
