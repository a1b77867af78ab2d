"""Where a task's packets go."""

from essaim_agent.overlay.routes import Route, routes_of
from essaim_shared.ids import NetworkId
from essaim_shared.messages import NodeNetwork
from essaim_shared.objects import Attachment


def network(number: int, vip_subnet: str = "", is_internal: bool = False) -> NodeNetwork:
    return NodeNetwork(
        network_id=NetworkId(f"n{number}"),
        name=f"n{number}",
        vni=number,
        subnet=f"10.{number}.0.0/24",
        mtu=1450,
        gateway=f"10.{number}.0.1",
        vip_subnet=vip_subnet,
        is_internal=is_internal,
    )


def routes(*networks: NodeNetwork) -> list[Route]:
    attachments = [
        Attachment(network_id=one.network_id, address=one.subnet.replace("0/24", "9"))
        for one in networks
    ]
    return routes_of(attachments, {one.network_id: one for one in networks})


def test_the_way_out_is_by_the_first_network() -> None:
    assert routes(network(1), network(2)) == [Route("0.0.0.0/0", "10.1.0.1", 0)]


def test_an_internal_network_is_no_way_out() -> None:
    assert routes(network(1, is_internal=True), network(2)) == [Route("0.0.0.0/0", "10.2.0.1", 1)]
    assert routes(network(1, is_internal=True)) == []


def test_service_addresses_are_reached_by_their_own_network_internal_or_not() -> None:
    assert routes(
        network(1, vip_subnet="10.101.0.0/20", is_internal=True),
        network(2, vip_subnet="10.102.0.0/20"),
    ) == [
        Route("10.101.0.0/20", "10.1.0.1", 0),
        Route("10.102.0.0/20", "10.2.0.1", 1),
        Route("0.0.0.0/0", "10.2.0.1", 1),
    ]
