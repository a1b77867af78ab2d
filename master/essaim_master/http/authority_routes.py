"""Joining, renewing, and the authority itself (`essaim_shared.trust.joining` has the bodies).

GET  /essaim/authority                      the authorities that are believed, PEM; open to all
POST /essaim/join                           whoever has a join token, over TLS
POST /essaim/identity/renew                 an agent or master with its present certificate
POST /essaim/identity/confirm               the same, with its newest one
GET  /essaim/cluster/ca                     which authority signs, and how far a rotation is
POST /essaim/cluster/ca/rotate              begin a rotation
GET  /essaim/cluster/join-tokens            {"Worker","Master"}
POST /essaim/cluster/join-tokens/rotate     {"Roles": ["worker", "master"]}; answers as GET
"""

from typing import Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.authority.desk import AuthorityDesk, bundle
from essaim_master.authority.errors import NotAdmitted
from essaim_master.authority.view import authority_view
from essaim_master.http.api import Api, encoded_response, json_response, read_body
from essaim_master.http.protocol import PEER_EXTENSION, Peer
from essaim_shared.errors import InvalidRequest, NotSupported
from essaim_shared.trust.joining import (
    AUTHORITY_TARGET,
    CONFIRM_TARGET,
    JOIN_TARGET,
    RENEW_TARGET,
    ConfirmRequest,
    JoinRequest,
    RenewRequest,
)
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import PeerCertificate
from essaim_shared.undecodable import UNDECODABLE

PEM_TYPE = "application/x-pem-file"

T = TypeVar("T")


class _Tokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    roles: tuple[Literal["worker", "master"], ...] = msgspec.field(name="Roles")


_TOKEN_ROLES = {"worker": Role.AGENT, "master": Role.MASTER}


class AuthorityRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> list[Route]:
        ca, tokens = "/essaim/cluster/ca", "/essaim/cluster/join-tokens"
        return [
            Route(AUTHORITY_TARGET, self.authority, methods=["GET"]),
            Route(JOIN_TARGET, self.join, methods=["POST"]),
            Route(RENEW_TARGET, self.renew, methods=["POST"]),
            Route(CONFIRM_TARGET, self.confirm, methods=["POST"]),
            Route(ca, self.show, methods=["GET"]),
            Route(ca + "/rotate", self.rotate, methods=["POST"]),
            Route(tokens, self.tokens, methods=["GET"]),
            Route(tokens + "/rotate", self.rotate_tokens, methods=["POST"]),
        ]

    # For machines

    async def authority(self, request: Request) -> Response:
        return Response(bundle(self._desk.anchors), media_type=PEM_TYPE)

    async def join(self, request: Request) -> Response:
        desk = self._desk
        if request.scope["scheme"] != "https":
            raise InvalidRequest("a join is answered over TLS only, at a master's TCP port")
        asked = decoded(await read_body(request), JoinRequest)
        answer = await desk.join(asked, _peer(request).address)
        return encoded_response(msgspec.json.encode(answer))

    async def renew(self, request: Request) -> Response:
        desk = self._desk
        asked = decoded(await read_body(request), RenewRequest)
        return encoded_response(
            msgspec.json.encode(await desk.renew(self._certificate(request), asked))
        )

    async def confirm(self, request: Request) -> Response:
        desk = self._desk
        asked = decoded(await read_body(request), ConfirmRequest)
        await desk.confirm(self._certificate(request), asked.generation)
        return json_response({})

    # For people

    async def show(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        anchors = self._desk.anchors
        return json_response(authority_view(self._api.state, anchors, self._api.clock.wall_ns()))

    async def rotate(self, request: Request) -> Response:
        await self._desk.rotate_authority()
        return await self.show(request)

    async def tokens(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        return self._tokens()

    async def rotate_tokens(self, request: Request) -> Response:
        asked = decoded(await read_body(request), _Tokens)
        await self._desk.rotate_tokens(frozenset(_TOKEN_ROLES[role] for role in asked.roles))
        return self._tokens()

    def _tokens(self) -> Response:
        tokens = self._desk.tokens()
        return json_response(
            {"Worker": tokens[Role.AGENT].text, "Master": tokens[Role.MASTER].text}
        )

    @property
    def _desk(self) -> AuthorityDesk:
        return desk_of(self._api)

    def _certificate(self, request: Request) -> PeerCertificate:
        """Of whoever asks; the desk says what it is worth. Raises NotAdmitted."""
        certificate = _peer(request).certificate
        if certificate is None:
            raise NotAdmitted("nobody was proved: an agent or master shows its certificate here")
        return certificate


def desk_of(api: Api) -> AuthorityDesk:
    """Raises NotSupported."""
    if api.authority is None:
        raise NotSupported(
            "this cluster has no authority: its masters run without identity_dir, so nobody joins "
            "by a token; a cluster with one begins with essaim cluster init"
        )
    return api.authority


def decoded(body: bytes, kind: type[T]) -> T:
    """Raises InvalidRequest, which does not repeat what was given: there may be secrets in it."""
    try:
        return msgspec.json.decode(body, type=kind)
    except UNDECODABLE:
        raise InvalidRequest(f"the request's body is no {kind.__name__.strip('_')}") from None


def _peer(request: Request) -> Peer:
    found = request.scope.get("extensions", {}).get(PEER_EXTENSION)
    return found if isinstance(found, Peer) else Peer()
