"""What a node makes of the masters' words about its networks."""

from typing import Any

import msgspec
import pytest

from essaim_agent.network_set import LocalTask, NetworkSet, check_networks
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.errors import MalformedMessage
from essaim_shared.ids import NetworkId, ServiceId, TaskId
from essaim_shared.messages import Assignments, Endpoint, NodeNetwork, ServiceEntry
from essaim_shared.objects import Attachment, Task
from essaim_shared.spec import TaskSpec
from essaim_shared.task_state import TaskState

RED = NodeNetwork(
    network_id=NetworkId("red"),
    name="red",
    vni=7,
    subnet="10.1.0.0/24",
    mtu=1450,
    gateway="10.1.0.1",
    vip_subnet="10.2.0.0/24",
)
OWN = Endpoint(
    network_id=RED.network_id,
    address="10.1.0.2",
    node_address="192.0.2.1",
    task_id=TaskId("own"),
    service_id=ServiceId("web"),
    slot="1",
)
OTHER = msgspec.structs.replace(
    OWN, address="10.1.0.9", node_address="192.0.2.2", task_id=TaskId("other"), state="serving"
)
BRIDGE = Endpoint(network_id=RED.network_id, address="10.1.0.3", node_address="192.0.2.2")
WEB = ServiceEntry(
    service_id=ServiceId("web"), network_id=RED.network_id, name="web", vip="10.2.0.5"
)
NODES = ("192.0.2.1", "192.0.2.2")


def change(**parts: Any) -> Assignments:
    return Assignments(term=1, sequence=2, full=False, **parts)


def full(**parts: Any) -> Assignments:
    told = {"networks": (RED,), "endpoints": (OWN, OTHER), "services": (WEB,), "nodes": NODES}
    return Assignments(term=1, sequence=1, full=True, **{**told, **parts})


def told() -> NetworkSet:
    made = NetworkSet()
    assert made.apply(full())
    return made


def own(state: Any) -> LocalTask:
    attachment = Attachment(network_id=RED.network_id, address=OWN.address)
    return LocalTask(TaskId("own"), (attachment,), state, ("192.0.2.53",))


def states(known: NetworkSet, *tasks: LocalTask) -> dict[str, str]:
    return {endpoint.task_id: endpoint.state for endpoint in known.picture(tasks).endpoints}


def test_the_picture_holds_what_was_told() -> None:
    picture = told().picture(())
    assert picture.networks == {RED.network_id: RED}
    assert picture.endpoints == {OWN, OTHER}
    assert picture.services == {WEB}
    assert picture.nodes == set(NODES)


def test_the_same_full_set_again_changes_nothing() -> None:
    known = told()
    assert not known.apply(full())
    assert not known.apply(full(endpoints=(OTHER, OWN)))
    assert known.apply(full(nodes=NODES[:1]))


@pytest.mark.parametrize(
    "parts",
    [
        {"removed_networks": (RED.network_id,)},
        {"networks": (msgspec.structs.replace(RED, mtu=1400),)},
        {"removed_endpoints": (OTHER,)},
        {"endpoints": (BRIDGE,)},
        {"removed_services": (WEB,)},
        {"services": (msgspec.structs.replace(WEB, aliases=("www",)),)},
        {"removed_nodes": NODES[1:]},
        {"nodes": ("192.0.2.3",)},
    ],
)
def test_each_kind_of_change_is_one_and_made_twice_is_none(parts: dict[str, Any]) -> None:
    known = told()
    before = known.picture(())
    assert known.apply(change(**parts))
    after = known.picture(())
    assert after != before
    assert not known.apply(change(**parts))
    assert known.picture(()) == after


def test_a_change_is_the_removal_of_the_old_and_the_new_one() -> None:
    known = told()
    drained = msgspec.structs.replace(OTHER, state="draining")
    assert known.apply(change(removed_endpoints=(OTHER,), endpoints=(drained,)))
    assert known.picture(()).endpoints == {OWN, drained}


def test_a_new_word_about_an_endpoint_replaces_the_old_one_though_nobody_removed_it() -> None:
    known = told()
    drained = msgspec.structs.replace(OTHER, state="draining")
    known.apply(change(endpoints=(drained,)))
    assert known.picture(()).endpoints == {OWN, drained}
    known.apply(change(removed_endpoints=(OTHER,)))
    assert known.picture(()).endpoints == {OWN}


def test_an_address_that_goes_to_another_task_outlives_the_removal_of_the_first() -> None:
    known = told()
    heir = msgspec.structs.replace(OTHER, task_id=TaskId("heir"))
    known.apply(change(endpoints=(heir,)))
    known.apply(change(removed_endpoints=(OTHER,)))
    assert known.picture(()).endpoints == {OWN, heir}


def test_of_its_own_tasks_a_node_knows_better() -> None:
    known = told()
    assert states(known, own("serving")) == {"own": "serving", "other": "serving"}
    assert states(known, own("draining"))["own"] == "draining"
    # The masters' word is not forgotten: it counts again for a task that is gone from here.
    assert states(known)["own"] == "starting"
    known.apply(change(endpoints=(msgspec.structs.replace(OWN, state="serving"),)))
    assert states(known, own("starting"))["own"] == "starting"


def test_that_a_task_is_to_be_stopped_the_masters_know_first() -> None:
    known = told()
    known.apply(change(endpoints=(msgspec.structs.replace(OWN, state="draining"),)))
    assert states(known, own("serving"))["own"] == "draining"


def test_the_picture_names_the_tasks_with_their_addresses_and_name_servers() -> None:
    picture = told().picture((own("starting"),))
    assert picture.tasks == {TaskId("own"): own("starting").attachments}
    assert picture.nameservers == {TaskId("own"): ("192.0.2.53",)}


def test_what_is_not_explained_yet_is_kept_and_harms_nobody() -> None:
    known = NetworkSet()
    stranger = msgspec.structs.replace(OTHER, service_id=ServiceId("unknown"))
    assert known.apply(change(endpoints=(OWN, stranger, stranger), services=(WEB, WEB)))
    picture = known.picture((own("serving"),))
    assert (picture.networks, picture.services) == ({}, {WEB})
    assert len(picture.endpoints) == 2
    assert known.gateway(RED.network_id) == ""
    known.apply(change(networks=(RED,)))
    assert known.gateway(RED.network_id) == "10.1.0.1"


TASK = Task(
    id=TaskId("own"),
    service_id=ServiceId("web"),
    service_name="web",
    slot=1,
    spec=TaskSpec(container=ContainerSpec(image="busybox")),
    spec_version=1,
    desired_state=TaskState.RUNNING,
    attachments=(Attachment(network_id=RED.network_id, address="10.1.0.2/24"),),
    created_ns=1,
    updated_ns=1,
)


@pytest.mark.parametrize(
    "parts",
    [
        {"networks": (msgspec.structs.replace(RED, subnet="10.1.0.0"),)},
        {"networks": (msgspec.structs.replace(RED, subnet="10.1.0.7/24"),)},
        {"networks": (msgspec.structs.replace(RED, vip_subnet="fd00::/64"),)},
        {"networks": (msgspec.structs.replace(RED, gateway=""),)},
        {"networks": (msgspec.structs.replace(RED, vni=2**24),)},
        {"networks": (msgspec.structs.replace(RED, vni=0),)},
        {"networks": (msgspec.structs.replace(RED, mtu=67),)},
        {"endpoints": (msgspec.structs.replace(OWN, address="10.1.0.256"),)},
        {"endpoints": (msgspec.structs.replace(OWN, node_address="host2"),)},
        {"services": (msgspec.structs.replace(WEB, vip="10.2.0"),)},
        {"nodes": ("",)},
        {"tasks": (TASK,)},
    ],
)
def test_what_would_break_the_kernel_s_tables_is_malformed(parts: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        check_networks(change(**parts))


def test_an_old_leader_says_less_and_is_understood() -> None:
    check_networks(full())
    check_networks(
        change(
            networks=(msgspec.structs.replace(RED, vip_subnet=""),),
            endpoints=(BRIDGE,),
            services=(msgspec.structs.replace(WEB, vip=""),),
        )
    )
