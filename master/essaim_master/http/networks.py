"""`/networks`: list, inspect, create, delete, prune.

Docker's, for networks of the swarm; which they are is said in `network_requests`. A deletion
waits for tasks that are about to leave the network, since Docker's clients remove the services of
a stack and its networks in one breath.
"""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import Api, flag_of, json_response, read_body
from essaim_master.http.errors import NotAllowed
from essaim_master.http.filters import (
    NETWORK_FILTERS,
    NETWORK_PRUNE_FILTERS,
    decode_filters,
    network_matcher,
)
from essaim_master.http.json_edge import decode_object
from essaim_master.http.lookup import find_network
from essaim_master.http.network_commits import NetworkCommits
from essaim_master.http.network_objects import network_object, verbose_network_object
from essaim_master.http.network_requests import wanted_network
from essaim_master.state.errors import NetworkInUse
from essaim_master.state.network_choice import WantedNetwork, carried_mtu
from essaim_master.state.network_uses import PREDEFINED_NETWORKS, used_networks
from essaim_shared.errors import InvalidRequest, NotFound
from essaim_shared.ids import NetworkId
from essaim_shared.objects import Network

SCOPES = ("", "swarm", "local", "global")


class NetworkRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._commits = NetworkCommits(api)

    def routes(self) -> list[Route]:
        return [
            Route("/networks", self.list_all, methods=["GET"]),
            Route("/networks/create", self.create, methods=["POST"]),
            Route("/networks/prune", self.prune, methods=["POST"]),
            Route("/networks/{reference}", self.inspect, methods=["GET"]),
            Route("/networks/{reference}", self.delete, methods=["DELETE"]),
        ]

    async def list_all(self, request: Request) -> Response:
        filters = decode_filters(request.query_params.get("filters", ""), NETWORK_FILTERS)
        matches = network_matcher(filters, self._dangling_test())
        await self._api.read_barrier(request)
        found = self._api.seen.networks.values()
        return json_response([network_object(network) for network in found if matches(network)])

    async def inspect(self, request: Request) -> Response:
        reference = request.path_params["reference"]
        scope = request.query_params.get("scope", "")
        if scope not in SCOPES:
            raise InvalidRequest(f"invalid scope '{scope}': it is swarm, local or global")
        await self._api.read_barrier(request)
        if scope not in ("", "swarm"):
            raise NotFound(f"network {reference} not found")
        network = find_network(self._api.seen, reference)
        if flag_of(request, "verbose"):
            return json_response(
                verbose_network_object(self._api.state, self._api.seen.services, network)
            )
        return json_response(network_object(network))

    async def create(self, request: Request) -> Response:
        wanted = wanted_network(decode_object(await read_body(request), "network"))
        network = await self._commits.create(wanted, self._commits.new_id())
        return json_response({"Id": network.id, "Warning": self._warning(wanted)}, 201)

    async def delete(self, request: Request) -> Response:
        network = await self._commits.find(request.path_params["reference"])
        self._api.check_network(network)
        await self._commits.remove(network)
        return Response(status_code=204)

    async def prune(self, request: Request) -> Response:
        """Remove what nothing uses. What comes into use meanwhile is left alone, and
        what is not the caller's."""
        filters = decode_filters(request.query_params.get("filters", ""), NETWORK_PRUNE_FILTERS)
        is_dangling = self._dangling_test()
        matches = network_matcher(filters, is_dangling)
        await self._api.catch_up()
        pruned = []
        networks = self._api.seen.networks.values()
        for network in [each for each in networks if matches(each) and is_dangling(each)]:
            try:
                await self._commits.remove(network, wait_s=0)
            except (NetworkInUse, NotFound, NotAllowed):
                continue
            pruned.append(network.name)
        return json_response({"NetworksDeleted": pruned})

    def _dangling_test(self) -> Callable[[Network], bool]:
        """Tells what nothing uses, as it is when it is first asked."""
        used: set[NetworkId] | None = None

        def is_dangling(network: Network) -> bool:
            nonlocal used
            if used is None:
                used = used_networks(self._api.state)
            return network.name not in PREDEFINED_NETWORKS and network.id not in used

        return is_dangling

    def _warning(self, wanted: WantedNetwork) -> str:
        carried = carried_mtu(self._api.state)
        if wanted.mtu and carried and wanted.mtu > carried:
            return (
                f"an MTU of {wanted.mtu} is more than the nodes carry inside of VXLAN ({carried}): "
                "larger packets between nodes are lost"
            )
        return ""
