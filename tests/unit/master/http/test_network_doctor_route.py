"""`GET /essaim/network/doctor`: what of the state and of the nodes' reports it is told from."""

import msgspec
import pytest

from essaim_master.control.network_reports import ReceivedReport
from essaim_shared.messages import NetworkReport
from essaim_shared.objects import Attachment, ServiceAddresses
from essaim_shared.spec import PortConfig
from essaim_shared.task_state import TaskState


class Heard:
    """The nodes' last reports, as this master has them."""

    def __init__(self, clock):
        self.clock = clock
        self.reports = {}

    def hear(self, node_id, **changes):
        now_ns = self.clock.wall_ns()
        report = NetworkReport(node_id=node_id, checked_ns=now_ns, sent_ns=now_ns, **changes)
        self.reports[node_id] = ReceivedReport(report, self.clock.monotonic_s())

    def received(self):
        return self.reports


@pytest.fixture
def heard(world):
    world.api.network_reports = Heard(world.clock)
    return world.api.network_reports


async def doctor(world):
    answer = await world.get("/essaim/network/doctor")
    assert answer.status == 200
    return answer.json


async def test_differences_count_while_their_node_is_heard(world, heard) -> None:
    node_id = await world.add_node(1)
    heard.hear(node_id, differences=("a route was gone",))
    assert not (await doctor(world))["Healthy"]
    await world.set_node_state(node_id, 1, "down")
    told = await doctor(world)
    assert told["Nodes"][0]["Differences"] == ["a route was gone"]
    assert (told["Healthy"], told["Findings"]) == (True, [])


async def test_addresses_of_ended_tasks_are_free(world, heard) -> None:
    node_id = await world.add_node(1)
    heard.hear(node_id, networks=1)
    created = await world.post("/services/create", {"Name": "web", **TEMPLATE})
    service = world.state.services[created.json["ID"]]
    for slot in (1, 2, 3):
        task = await world.add_task(service, slot, node_id, TaskState.FAILED, TaskState.SHUTDOWN)
        place = Attachment(network_id=world.network_id, address=f"10.244.0.{slot}")
        moved = msgspec.structs.replace(task, attachments=(place,))
        await world.write(lambda writes, moved=moved: writes.put(moved))
    await world.add_task(service, 4, node_id)
    (network,) = (await doctor(world))["Networks"]
    assert (network["AddressesUsed"], network["AddressesMax"]) == (1, 4094)


TEMPLATE = {"TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}


async def test_a_port_that_a_running_service_did_not_get_is_said(world, heard) -> None:
    ports = [{"TargetPort": 80}, {"TargetPort": 81, "PublishedPort": 8081}]
    body = {"Name": "web", **TEMPLATE, "EndpointSpec": {"Ports": ports}}
    service_id = (await world.post("/services/create", body)).json["ID"]
    assert (await doctor(world))["Healthy"], "the leader needs its time"
    await world.clock.advance(6)
    texts = [one["Text"] for one in (await doctor(world))["Findings"]]
    assert ["80/tcp" in texts[0], "81/tcp" in texts[1]] == [True, True]
    given = tuple(
        PortConfig(target_port=target, published_port=number, publish_mode="ingress")
        for target, number in ((80, 30_000), (81, 8081))
    )
    for ports, missing in ((given[:1], ["81/tcp"]), (given[1:], ["80/tcp"]), (given, [])):
        addresses = ServiceAddresses(service_id=service_id, ports=ports)
        await world.write(lambda writes, addresses=addresses: writes.put(addresses))
        texts = [one["Text"] for one in (await doctor(world))["Findings"]]
        assert [port in text for port, text in zip(missing, texts, strict=True)] == [True] * len(
            missing
        )
