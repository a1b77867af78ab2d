"""`/tasks`: list and inspect. Tasks whose service is gone stay listed until they are gone too."""

from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import Api, encoded_response
from essaim_master.http.encoded_objects import encode_list
from essaim_master.http.filters import TASK_FILTERS, decode_filters, task_matcher
from essaim_master.http.lookup import find_node, find_service, find_task
from essaim_shared.errors import NotSupported
from essaim_shared.ids import NodeId, ServiceId
from essaim_shared.objects import Task


class TaskRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> list[Route]:
        return [
            Route("/tasks", self.list_all, methods=["GET"]),
            Route("/tasks/{reference}", self.inspect, methods=["GET"]),
            Route("/tasks/{reference}/logs", self.logs, methods=["GET"]),
        ]

    async def list_all(self, request: Request) -> Response:
        filters = decode_filters(request.query_params.get("filters", ""), TASK_FILTERS)
        task_matcher(filters, self._is_up_to_date)
        await self._api.read_barrier(request)
        state = self._api.seen
        if "service" in filters:
            filters["service"] = [self._service_id(word) for word in filters["service"]]
        if "node" in filters:
            filters["node"] = [find_node(state, word).id for word in filters["node"]]
        matches = task_matcher(filters, self._is_up_to_date)
        encode = self._api.encoded.task
        candidates = self._candidates(filters)
        return encoded_response(encode_list([encode(task) for task in candidates if matches(task)]))

    async def inspect(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        task = find_task(self._api.seen, request.path_params["reference"])
        return encoded_response(self._api.encoded.task(task))

    async def logs(self, request: Request) -> Response:
        raise NotSupported(
            "Essaim does not collect logs of tasks yet: use `docker logs` on the task's node"
        )

    def _service_id(self, word: str) -> ServiceId:
        """A service's tasks can outlive it, so its full id is good without it."""
        if self._api.seen.tasks_of_service(ServiceId(word)):
            return ServiceId(word)
        return find_service(self._api.seen, word).id

    def _candidates(self, filters: dict[str, list[str]]) -> Iterable[Task]:
        """The indexes make a list of one service or node independent of the cluster's size."""
        state = self._api.seen
        if "service" in filters:
            for service_id in dict.fromkeys(filters["service"]):
                yield from state.tasks_of_service(ServiceId(service_id)).values()
        elif "node" in filters:
            for node_id in dict.fromkeys(filters["node"]):
                yield from state.tasks_on_node(NodeId(node_id)).values()
        else:
            yield from state.tasks.values()

    def _is_up_to_date(self, task: Task) -> bool:
        service = self._api.state.services.get(task.service_id)
        return service is not None and task.spec_version == service.spec_version
