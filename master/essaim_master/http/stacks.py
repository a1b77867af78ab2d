"""`/essaim/stacks`: stacks as a whole, on the server's side. Docker's own clients do without it.

GET    /essaim/stacks       [{"Name","Services","Networks","Secrets","Configs"}], their numbers
POST   /essaim/stacks/NAME  {"Networks": [bodies of POST /networks/create],
                             "Secrets": [bodies of POST /secrets/create], "Configs": [the same],
                             "Services": [bodies of POST /services/create], "Prune": bool,
                             "RegistryAuths": {SERVICE: X-Registry-Auth}}
                            names in full; answers {"Networks": [{"Name","Id","Created"}],
                            "Secrets", "Configs", "Services": [{"Name","Id","Action"}], "Warnings"},
                            the action one of created, updated, unchanged, removed
DELETE /essaim/stacks/NAME  removes services, secrets, configs, then networks; 409 when their
                            tasks take too long (ask again), 400 when a service outside of the stack
                            uses one of them
"""

from collections import Counter

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import Api, json_response, read_body
from essaim_master.http.json_edge import decode_object
from essaim_master.http.scope import STACK_LABEL
from essaim_master.http.service_images import image_request
from essaim_master.http.stack_deploys import StackDeploys
from essaim_master.http.stack_requests import stack_request
from essaim_shared.limits import STACK_BODY_BYTES_MAX
from essaim_shared.payload_objects import PAYLOAD_KINDS


class StackRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._deploys = StackDeploys(api)

    def routes(self) -> list[Route]:
        return [
            Route("/essaim/stacks", self.list_all, methods=["GET"]),
            Route("/essaim/stacks/{name}", self.deploy, methods=["POST"]),
            Route("/essaim/stacks/{name}", self.remove, methods=["DELETE"]),
        ]

    async def list_all(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        state = self._api.seen
        services = Counter(
            service.spec.labels[STACK_LABEL]
            for service in state.services.values()
            if STACK_LABEL in service.spec.labels
        )
        networks = Counter(
            network.labels[STACK_LABEL]
            for network in state.networks.values()
            if STACK_LABEL in network.labels
        )
        secrets, configs = (
            Counter(
                payload.labels[STACK_LABEL]
                for payload in state.payloads(kind).values()
                if STACK_LABEL in payload.labels
            )
            for kind in PAYLOAD_KINDS
        )
        return json_response(
            [
                {
                    "Name": name,
                    "Services": services[name],
                    "Networks": networks[name],
                    "Secrets": secrets[name],
                    "Configs": configs[name],
                }
                for name in sorted({*services, *networks, *secrets, *configs})
            ]
        )

    async def deploy(self, request: Request) -> Response:
        stack = request.path_params["name"]
        self._api.check_stack(stack)
        wanted = stack_request(
            decode_object(await read_body(request, STACK_BODY_BYTES_MAX), "stack"), stack
        )
        asked = image_request(request, is_new=True)
        return json_response(await self._deploys.deploy(stack, wanted, asked))

    async def remove(self, request: Request) -> Response:
        stack = request.path_params["name"]
        self._api.check_stack(stack)
        return json_response(await self._deploys.remove(stack))
