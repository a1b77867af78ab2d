"""`/essaim/users`: who may ask the masters, as what, and with which proofs.

GET    /essaim/users                     [{"Name","Role","Stack","CreatedAt","Tokens"}]
POST   /essaim/users                     {"Name","Role","Stack"}
GET    /essaim/users/NAME
DELETE /essaim/users/NAME                his tokens and certificates are worth nothing from then on
GET    /essaim/users/NAME/tokens         [{"ID","CreatedAt","ExpiresAt"}]
POST   /essaim/users/NAME/tokens         {"ValidSeconds"}; answers {"ID",…,"Token"}, the token once
DELETE /essaim/users/NAME/tokens/ID
POST   /essaim/users/NAME/certificate    {"Request": PEM}; answers {"Certificate","Authorities",
                                         "ClusterID","Masters"}
DELETE /essaim/users/NAME/certificate    those made up to now are worth nothing from then on
"""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import GUARDED_ATTEMPTS_MAX, Api, json_response, read_body
from essaim_master.http.authority_routes import desk_of
from essaim_master.http.user_requests import (
    creation_of,
    decode_new_certificate,
    decode_new_token,
    decode_new_user,
    find_user,
    new_digest,
    removal_of,
    token_object,
    user_object,
    with_token,
    without_certificates,
    without_token,
)
from essaim_master.state.writes import Writes
from essaim_shared.errors import Conflict
from essaim_shared.trust.tokens import new_user_token


class UserRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> list[Route]:
        user = "/essaim/users/{name}"
        return [
            Route("/essaim/users", self.list_all, methods=["GET"]),
            Route("/essaim/users", self.create, methods=["POST"]),
            Route(user, self.inspect, methods=["GET"]),
            Route(user, self.remove, methods=["DELETE"]),
            Route(user + "/tokens", self.tokens, methods=["GET"]),
            Route(user + "/tokens", self.add_token, methods=["POST"]),
            Route(user + "/tokens/{id}", self.remove_token, methods=["DELETE"]),
            Route(user + "/certificate", self.sign, methods=["POST"]),
            Route(user + "/certificate", self.revoke, methods=["DELETE"]),
        ]

    async def list_all(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        users = self._api.state.users
        return json_response([user_object(users[name]) for name in sorted(users)])

    async def inspect(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        return json_response(user_object(find_user(self._api.state, _name(request))))

    async def create(self, request: Request) -> Response:
        wanted = decode_new_user(await read_body(request))
        state, now_ns = self._api.state, self._api.clock.wall_ns()
        stack = f" of the stack {wanted.stack}" if wanted.stack else ""
        await self._write(
            lambda: creation_of(state, wanted, now_ns), f"{wanted.role}{stack}", wanted.name
        )
        return json_response(user_object(find_user(state, wanted.name)), 201)

    async def remove(self, request: Request) -> Response:
        name = _name(request)
        await self._write(lambda: removal_of(self._api.state, name), "", name)
        return Response(status_code=204)

    async def tokens(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        user = find_user(self._api.state, _name(request))
        return json_response([token_object(token) for token in user.tokens])

    async def add_token(self, request: Request) -> Response:
        wanted = decode_new_token(await read_body(request))
        name, token = _name(request), new_user_token()
        now_ns = self._api.clock.wall_ns()
        digest = new_digest(token, wanted.valid_s, now_ns)
        await self._write(
            lambda: with_token(self._api.state, name, digest, now_ns), f"token {token.id}", name
        )
        return json_response({**token_object(digest), "Token": token.text}, 201)

    async def remove_token(self, request: Request) -> Response:
        name, token_id = _name(request), request.path_params["id"]
        await self._write(
            lambda: without_token(self._api.state, name, token_id), f"token {token_id}", name
        )
        return Response(status_code=204)

    async def sign(self, request: Request) -> Response:
        wanted = decode_new_certificate(await read_body(request))
        desk, name = desk_of(self._api), _name(request)
        await self._api.catch_up()
        user = find_user(self._api.state, name)
        await self._api.record(name)
        issued = await desk.issue_to_user(name, wanted.request, user.certificates_since_ns)
        cluster = self._api.state.cluster
        return json_response(
            {
                "Certificate": issued.certificate_pem,
                "Authorities": issued.authorities_pem,
                "ClusterID": "" if cluster is None else cluster.id,
                "Masters": issued.masters,
            }
        )

    async def revoke(self, request: Request) -> Response:
        name, now_ns = _name(request), self._api.clock.wall_ns()
        await self._write(lambda: without_certificates(self._api.state, name, now_ns), "", name)
        return Response(status_code=204)

    async def _write(self, plan: Callable[[], Writes], detail: str, name: str) -> None:
        """Raises what `plan` raises on a state that is up to date, and Conflict."""
        for _ in range(GUARDED_ATTEMPTS_MAX):
            await self._api.catch_up()
            if await self._api.commit(plan(), detail=detail):
                return
        raise Conflict(f"user {name} is being changed by others: try again")


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    return name
