"""The ASGI application: every route with and without `/v1.NN`, behind the gate, errors in Docker's
form."""

import math
from email.utils import formatdate
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from essaim_master.errors import TooManyRequests
from essaim_master.http.acting import Acting, act_as, acting
from essaim_master.http.api import Api, error_response
from essaim_master.http.api_version import API_VERSION, server_version, split_version
from essaim_master.http.audit_routes import AuditRoutes
from essaim_master.http.authority_routes import AuthorityRoutes
from essaim_master.http.backup_route import BackupRoute
from essaim_master.http.bus_routes import BusRoutes
from essaim_master.http.caller import NOBODY
from essaim_master.http.cluster_routes import ClusterRoutes
from essaim_master.http.errors import BodyTooLarge, NotAuthenticated
from essaim_master.http.essaim_routes import EssaimRoutes
from essaim_master.http.gate import Gate
from essaim_master.http.kv_routes import KvRoutes, compacted_response
from essaim_master.http.network_doctor import NetworkDoctorRoute
from essaim_master.http.networks import NetworkRoutes
from essaim_master.http.nodes import NodeRoutes
from essaim_master.http.payloads import NodePayloadRoutes, PayloadRoutes
from essaim_master.http.role_routes import RoleRoutes
from essaim_master.http.service_history import ServiceHistoryRoutes
from essaim_master.http.service_images import DistributionRoute
from essaim_master.http.services import ServiceRoutes
from essaim_master.http.stacks import StackRoutes
from essaim_master.http.swarm import SwarmRoutes
from essaim_master.http.system import SystemRoutes
from essaim_master.http.tasks import TaskRoutes
from essaim_master.http.user_routes import UserRoutes
from essaim_master.kv.errors import Compacted
from essaim_shared.errors import EssaimError

NO_HANDLER = Acting(NOBODY)

ENGINE_ENDPOINTS = frozenset(
    {"auth", "build", "commit", "containers", "exec", "grpc", "images", "plugins", "session"}
    | {"system", "volumes"}
)
"""First segments of paths that concern one engine."""

_LATER: dict[str, str] = {
    "events": "Essaim has no stream of events yet: poll, or use GET /essaim/wait",
    "networks": "tasks are on the networks that their service names: change the service",
    "swarm": "an Essaim cluster is formed by `essaim cluster init` and `essaim cluster join`, "
    "not by `docker swarm`",
}

_COMMON_HEADERS = [
    (b"api-version", API_VERSION.encode()),
    (b"docker-experimental", b"false"),
    (b"ostype", b"linux"),
    (b"server", f"Essaim/{server_version()} (linux)".encode()),
]


class App:
    """One per master."""

    def __init__(self, api: Api, cluster_id: str | None = None) -> None:
        """`cluster_id`: whose certificates and users are let in; None: everybody is."""
        self._api = api
        self._gate = Gate(api, cluster_id)
        self._kv = KvRoutes(api)
        self._audit = AuditRoutes(api)
        self._essaim = EssaimRoutes(api, lambda: self._kv.watches, lambda: self._gate.refused)
        self._starlette = self._made()
        self._date = (0, b"")
        self._is_closed = False

    def close(self) -> None:
        """End the subscriptions to the state and the long polls. Closing again does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._essaim.close()
            self._kv.close()
            self._audit.close()
            self._api.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *_COMMON_HEADERS,
                    (b"date", self._date_header()),
                ]
            await send(message)

        app: ASGIApp = self._starlette
        admitted = NO_HANDLER
        try:
            path = split_version(scope["path"])
            scope = {**scope, "path": path, "raw_path": path.encode("utf-8", "surrogateescape")}
            admitted = await self._gate.admit(scope, path)
        except EssaimError as error:
            app = refusal_response(error)
        try:
            with act_as(admitted):
                await app(scope, receive, send_with_headers)
        except ClientDisconnect:
            # It went away in the middle of its own body: nobody is left to answer.
            return

    def _date_header(self) -> bytes:
        """RFC 9110, 6.6.1. Formatted once a second."""
        second = self._api.clock.wall_ns() // 1_000_000_000
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]

    @property
    def routes(self) -> list[Route]:
        """Every route that is answered."""
        return [route for route in self._starlette.routes if isinstance(route, Route)]

    def _made(self) -> Starlette:
        starlette = Starlette(
            routes=[*_routes(self._api, self._essaim, self._kv), *self._audit.routes()],
            exception_handlers={
                Compacted: compacted_response,
                EssaimError: self._on_essaim_error,
                HTTPException: _on_http_exception,
                Exception: _on_defect,
            },
        )
        starlette.router.redirect_slashes = False
        return starlette

    def _on_essaim_error(self, request: Request, error: Exception) -> Response:
        one = acting()
        if isinstance(error, EssaimError) and one is not None:
            self._gate.note_refusal(error, one, f"{request.method} {request.scope['path']}")
        return refusal_response(error)


def _routes(api: Api, essaim: EssaimRoutes, kv: KvRoutes) -> list[Route]:
    return [
        *ServiceRoutes(api).routes(),
        *ServiceHistoryRoutes(api).routes(),
        *TaskRoutes(api).routes(),
        *NodeRoutes(api).routes(),
        *NetworkRoutes(api).routes(),
        *PayloadRoutes(api).routes(),
        *NodePayloadRoutes(api).routes(),
        *StackRoutes(api).routes(),
        *DistributionRoute(api).routes(),
        *essaim.routes(),
        *NetworkDoctorRoute(api).routes(),
        *ClusterRoutes(api).routes(),
        *RoleRoutes(api).routes(),
        *AuthorityRoutes(api).routes(),
        *BusRoutes(api).routes(),
        *UserRoutes(api).routes(),
        *BackupRoute(api).routes(),
        *kv.routes(),
        *SwarmRoutes(api).routes(),
        *SystemRoutes(api).routes(),
    ]


def refusal_response(error: Exception) -> Response:
    status = error.http_status if isinstance(error, EssaimError) else EssaimError.http_status
    response = error_response(str(error), status)
    if isinstance(error, BodyTooLarge):
        response.headers["Connection"] = "close"
    elif isinstance(error, NotAuthenticated):
        response.headers["WWW-Authenticate"] = "Bearer"
    elif isinstance(error, TooManyRequests):
        response.headers["Retry-After"] = str(math.ceil(error.wait_s))
    return response


def _on_http_exception(request: Request, error: Exception) -> Response:
    """No route, or not with this method: then it may be one of Docker's that we lack."""
    path = request.scope["path"]
    segment = path.split("/")[1] if path.startswith("/") else ""
    if segment in ENGINE_ENDPOINTS:
        return error_response(
            f"/{segment} belongs to a single Docker Engine and this is a cluster of Essaim: "
            "ask the engine of a node",
            HTTPStatus.NOT_IMPLEMENTED,
        )
    if segment in _LATER:
        return error_response(_LATER[segment], HTTPStatus.NOT_IMPLEMENTED)
    status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.NOT_FOUND
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return error_response(f"{request.method} is not a method of {path}", status)
    return error_response("page not found", status)


def _on_defect(request: Request, error: Exception) -> Response:
    """What no handler foresaw: Starlette raises it again, so that it stands in the log."""
    return error_response(
        f"internal error of the master ({type(error).__name__}): see its log",
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
