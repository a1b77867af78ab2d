"""`/nodes`: list, inspect, update, delete."""

import pytest
from support.trusted_state import identity_of

from essaim_master.state.keys import Kind
from essaim_master.state.writes import Writes
from essaim_shared.errors import VersionConflict
from essaim_shared.ids import NodeId
from essaim_shared.trust.roles import Role


async def version(world, reference):
    return (await world.get(f"/nodes/{reference}")).json["Version"]["Index"]


async def update(world, reference, spec):
    at = await version(world, reference)
    return await world.post(f"/v1.47/nodes/{reference}/update?version={at}", spec)


async def test_a_node_in_dockers_shape(world) -> None:
    node = await world.add_node(1, labels={"zone": "a"})
    shown = (await world.get("/v1.41/nodes/h1")).json
    assert shown["ID"] == node
    assert shown["Spec"] == {
        "Name": "h1",
        "Labels": {"zone": "a"},
        "Role": "manager",
        "Availability": "active",
    }
    assert shown["Status"] == {"State": "ready", "Addr": "10.98.0.1"}
    assert shown["ManagerStatus"] == {
        "Leader": True,
        "Reachability": "reachable",
        "Addr": "10.98.0.1:7401",
    }
    description = shown["Description"]
    assert description["Hostname"] == "h1"
    assert description["Resources"] == {"NanoCPUs": 2_000_000_000, "MemoryBytes": 4 << 30}
    assert description["Engine"]["EngineVersion"] == "20.10.24"


async def test_a_node_without_a_master_is_a_worker(world) -> None:
    await world.add_node(1)
    await world.add_node(7)
    assert "ManagerStatus" not in (await world.get("/nodes/h7")).json
    found = (await world.get('/nodes?filters={"role":["worker"]}')).json
    assert [shown["Description"]["Hostname"] for shown in found] == ["h7"]


async def test_the_leader_moves_in_the_list_when_leadership_does(world) -> None:
    await world.add_node(1)
    assert (await world.get("/nodes")).json[0]["ManagerStatus"]["Leader"] is True
    world.cluster.lead(False, 2)
    assert "Leader" not in (await world.get("/nodes")).json[0]["ManagerStatus"]


async def test_a_master_on_a_host_that_is_down_counts_as_unreachable(world) -> None:
    await world.add_node(1, state="down")
    await world.add_node(2, state="down")
    shown = {node["Description"]["Hostname"]: node for node in (await world.get("/nodes")).json}
    assert shown["h1"]["ManagerStatus"]["Reachability"] == "reachable"
    assert shown["h2"]["ManagerStatus"]["Reachability"] == "unreachable"


async def test_a_state_change_shows_at_once(world) -> None:
    node = await world.add_node(1)
    assert (await world.get("/nodes")).json[0]["Status"]["State"] == "ready"
    await world.set_node_state(node, 1, "down")
    assert (await world.get("/nodes")).json[0]["Status"]["State"] == "down"


async def test_availability_and_labels_change_and_the_rest_stays(world) -> None:
    node = await world.add_node(7)
    spec = {"Name": "h7", "Role": "worker", "Availability": "drain", "Labels": {"a": "b"}}
    answer = await update(world, "h7", spec)
    assert (answer.status, answer.body) == (200, b"")
    stored = world.state.nodes[node].spec
    assert (stored.availability, stored.labels, stored.role) == ("drain", {"a": "b"}, "worker")


async def test_a_client_may_write_back_the_role_that_it_read(world) -> None:
    node = await world.add_node(1)
    spec = (await world.get("/nodes/h1")).json["Spec"]
    assert spec["Role"] == "manager"
    assert (await update(world, "h1", {**spec, "Availability": "pause"})).status == 200
    assert world.state.nodes[node].spec.availability == "pause"


@pytest.mark.parametrize(
    ("spec", "status", "sentence"),
    [
        ({"Role": "manager", "Availability": "active"}, 501, "this master runs alone in memory"),
        ({"Availability": "asleep"}, 400, 'invalid value "asleep" of the field "Availability"'),
        ({"Availability": "active", "Labels": {"": "x"}}, 400, "label cannot be empty"),
        ({"Availability": "active", "Color": "red"}, 400, 'unknown field "Color"'),
        (b"", 400, "a node spec is expected"),
    ],
)
async def test_what_a_node_cannot_be_is_refused(world, spec, status, sentence) -> None:
    node = await world.add_node(7)
    before = world.state.nodes[node]
    answer = await update(world, "h7", spec)
    assert answer.status == status
    assert sentence in answer.message
    assert world.state.nodes[node] == before


async def test_a_stale_version_is_out_of_sequence(world) -> None:
    await world.add_node(7)
    at = await version(world, "h7")
    spec = {"Role": "worker", "Availability": "drain"}
    assert (await world.post(f"/nodes/h7/update?version={at}", spec)).status == 200
    stale = await world.post(f"/nodes/h7/update?version={at}", spec)
    assert (stale.status, stale.message) == (500, str(VersionConflict()))


async def test_heartbeats_of_state_do_not_disturb_a_version(world) -> None:
    """The status has a key of its own: a node that flaps can still be drained."""
    node = await world.add_node(7)
    at = await version(world, "h7")
    await world.set_node_state(node, 7, "down")
    spec = {"Role": "worker", "Availability": "drain"}
    assert (await world.post(f"/nodes/h7/update?version={at}", spec)).status == 200


@pytest.mark.parametrize("force", ["false", "true"])
async def test_the_node_of_a_member_is_not_removed(world, force) -> None:
    node = await world.add_node(1, state="down")
    refused = await world.call("DELETE", f"/nodes/h1?force={force}")
    assert (refused.status, refused.message) == (
        400,
        f"rpc error: code = FailedPrecondition desc = node {node} is a cluster manager and is a "
        "member of the raft cluster. It must be demoted to worker before removal",
    )
    assert node in world.state.nodes


async def test_only_a_node_that_is_down_is_removed_unless_forced(world) -> None:
    node = await world.add_node(7)
    refused = await world.call("DELETE", "/nodes/h7")
    assert refused.status == 400
    assert refused.message == (
        f"rpc error: code = FailedPrecondition desc = node {node} is not down and can't be removed"
    )
    await world.set_node_state(node, 7, "down")
    assert (await world.call("DELETE", "/nodes/h7?force=false")).status == 200
    assert not world.state.nodes
    assert not world.state.node_status
    await world.add_node(8)
    assert (await world.call("DELETE", "/nodes/h8?force=1")).status == 200
    gone = await world.call("DELETE", "/nodes/h8")
    assert (gone.status, gone.message) == (404, "node h8 not found")


async def test_a_removed_node_is_shut_out_in_the_same_moment(world) -> None:
    node = await world.add_node(7, state="down")
    unused = NodeId("joinedandnevercame0000000")
    writes = Writes()
    for name in (node, unused):
        writes.put(identity_of(Role.AGENT, name))
    (transaction,) = writes.transactions()
    await world.cluster.commit(transaction, 1.0)
    revisions = []
    world.state.subscribe(lambda applied: revisions.append({c.kind for c in applied.changes}))
    assert (await world.call("DELETE", "/nodes/h7")).status == 200
    assert revisions == [{Kind.NODE, Kind.NODE_STATUS, Kind.IDENTITY, Kind.AUDIT}]
    # A machine that joined and never came as a node is removed by its id.
    assert list(world.state.identities) == [f"essaim-agent/{unused}"]
    assert (await world.call("DELETE", f"/nodes/{unused}")).status == 200
    assert (await world.call("DELETE", f"/nodes/{unused}")).status == 404
    assert not world.state.identities


async def test_a_node_that_comes_back_at_that_moment_is_not_removed(world) -> None:
    node = await world.add_node(7, state="down")

    async def rival():
        await world.set_node_state(node, 7, "ready")

    world.cluster.before_commit.append(rival)
    answer = await world.call("DELETE", "/nodes/h7")
    assert answer.status == 400
    assert node in world.state.nodes


async def test_a_node_that_was_cut_off_says_why_and_is_let_in_again(world) -> None:
    node = await world.add_node(7)
    why = "it floods the bus: 90000 messages in a second"
    suspended = identity_of(Role.AGENT, node, suspended=why)
    await world.write(lambda writes: writes.put(suspended))
    message = (await world.get("/nodes/h7")).json["Status"]["Message"]
    assert message == f"suspended: {why}; when it is mended: essaim node readmit {node}"
    assert (await world.post("/essaim/nodes/h7/readmit", {})).json == {"ID": node}
    assert world.state.identity(Role.AGENT, node).suspended == ""
    assert "Message" not in (await world.get("/nodes/h7")).json["Status"]
    assert (await world.post("/essaim/nodes/h7/readmit", {})).status == 200
    assert (await world.post("/essaim/nodes/nobody/readmit", {})).status == 404
