"""The routes in a task's namespace, beyond those that come with its addresses. Pure."""

import ipaddress
from collections.abc import Mapping, Sequence

import msgspec

from essaim_shared.ids import NetworkId
from essaim_shared.messages import NodeNetwork
from essaim_shared.objects import Attachment

DEFAULT_DESTINATION = "0.0.0.0/0"


class Route(msgspec.Struct, frozen=True):
    destination: str
    """CIDR."""
    gateway: str
    place: int
    """Of the attachment by whose interface it goes: 0 for `eth0`."""


def routes_of(
    attachments: Sequence[Attachment], networks: Mapping[NetworkId, NodeNetwork]
) -> list[Route]:
    """To the outside by the first network that is not internal, if there is one; to each network's
    service addresses by that network, where the node's bridge translates them."""
    on = [networks[attachment.network_id] for attachment in attachments]
    routes = [
        Route(str(ipaddress.IPv4Network(network.vip_subnet)), network.gateway, place)
        for place, network in enumerate(on)
        if network.vip_subnet
    ]
    outward = [place for place, network in enumerate(on) if not network.is_internal]
    if outward:
        routes.append(Route(DEFAULT_DESTINATION, on[outward[0]].gateway, outward[0]))
    return routes
