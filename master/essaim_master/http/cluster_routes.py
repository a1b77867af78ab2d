"""`/essaim/cluster/…`: the masters themselves. Any master answers; the leader carries out.

GET    /essaim/cluster/members                  every master, removed ones too
POST   /essaim/cluster/members                  {"ID","Addr","HTTPAddr"}: a new learner
POST   /essaim/cluster/members/ID/promote       the learner votes
DELETE /essaim/cluster/members/ID?revoke=1      its identity too, also if it answers
POST   /essaim/cluster/data-key/rotate          {"Key"}: a new one for this master's disk
POST   /essaim/cluster/transfer-leadership      {"To": ID}, or {} for whoever is most up to date
GET    /essaim/cluster/status                   what each master says of itself (/essaim/raft)
GET    /essaim/cluster/hash?revision=N          {"Revision","Hash"} of this master, or 404
GET    /essaim/raft/log?from=N&limit=N          entries that this master holds, decoded
GET    /essaim/raft/dump?after=KEY&limit=N      {"Items","Next"}: keys and values, decoded; KEY and
                                                Next are in hexadecimal
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import Api, flag_of, json_response, number_of, read_body
from essaim_master.http.at_leader import at_leader
from essaim_master.http.raft_view import Inside, raft_object
from essaim_master.inspection import entry_object, stored_object
from essaim_master.state.cluster import Member
from essaim_shared.clock import rfc3339
from essaim_shared.errors import InvalidRequest, NotFound, NotSupported, Unavailable
from essaim_shared.ids import MemberId
from essaim_shared.objects import ClusterMember
from essaim_shared.undecodable import UNDECODABLE

STATUS_TIMEOUT_S = 1.5
LOG_ENTRIES_DEFAULT = 100
LOG_ENTRIES_MAX = 1000
LOG_BYTES_MAX = 4 * 1024 * 1024
INDEX_MAX = float(2**63)

T = TypeVar("T")


class _NewMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str = msgspec.field(name="ID")
    raft: str = msgspec.field(name="Addr")
    http: str = msgspec.field(name="HTTPAddr")


class _Transfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    to: str | None = msgspec.field(name="To", default=None)


class ClusterRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> list[Route]:
        members = "/essaim/cluster/members"
        return [
            Route(members, self.members, methods=["GET"]),
            Route(members, self.add, methods=["POST"]),
            Route(members + "/{member_id}/promote", self.promote, methods=["POST"]),
            Route(members + "/{member_id}", self.remove, methods=["DELETE"]),
            Route("/essaim/cluster/transfer-leadership", self.transfer, methods=["POST"]),
            Route("/essaim/cluster/data-key/rotate", self.rotate_data_key, methods=["POST"]),
            Route("/essaim/cluster/status", self.status, methods=["GET"]),
            Route("/essaim/cluster/hash", self.hash, methods=["GET"]),
            Route("/essaim/raft/log", self.log, methods=["GET"]),
            Route("/essaim/raft/dump", self.dump, methods=["GET"]),
        ]

    # Looking

    async def members(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        inside = self._inside
        status = inside.node.status()
        state = self._api.state
        known = dict(state.members)
        for member in self._api.cluster.members:
            # Before the first leader has written the objects, the static list is what there is.
            known.setdefault(
                member.id,
                ClusterMember(id=member.id, raft=member.raft, http=member.http, added_ns=0),
            )
        rows = []
        for member_id, found in sorted(known.items()):
            build = state.member_builds.get(member_id)
            rows.append(
                {
                    "ID": member_id,
                    "Addr": found.raft,
                    "HTTPAddr": found.http,
                    "Role": "voter"
                    if member_id in status.configuration.voters
                    else "learner"
                    if member_id in status.configuration.learners
                    else "none",
                    "Leader": member_id == status.leader,
                    "AddedAt": rfc3339(found.added_ns) if found.added_ns else None,
                    "Removed": bool(found.removed_ns),
                    "Version": None if build is None else build.version,
                    "Build": None if build is None else build.build,
                }
            )
        return json_response(rows)

    async def status(self, request: Request) -> Response:
        own_id = self._api.cluster.member_id
        members = self._api.cluster.members
        views = await asyncio.gather(
            *(self._view_of(member) for member in members if member.id != own_id)
        )
        by_id = dict(views)
        by_id[own_id] = raft_object(self._api.cluster, self._inside)
        return json_response(
            [
                {
                    "ID": member.id,
                    "Addr": member.raft,
                    "HTTPAddr": member.http,
                    "Raft": by_id.get(member.id),
                }
                for member in members
            ]
        )

    async def hash(self, request: Request) -> Response:
        revision = int(number_of(request, "revision", 0, 0, INDEX_MAX))
        hashes = self._inside.hashes
        found = hashes.at(revision) if revision else hashes.latest
        if found is None:
            raise NotFound(f"this master has no hash of its state at revision {revision or 'any'}")
        return json_response({"Revision": found.revision, "Hash": found.hash})

    async def log(self, request: Request) -> Response:
        log = self._inside.node.log
        limit = int(number_of(request, "limit", LOG_ENTRIES_DEFAULT, 1, LOG_ENTRIES_MAX))
        newest_first = max(log.first_index, log.last_index - limit + 1)
        first = int(number_of(request, "from", newest_first, 0, INDEX_MAX))
        if first < log.first_index and "from" in request.query_params:
            raise InvalidRequest(
                f"entries before {log.first_index} were compacted into a snapshot: ask from there"
            )
        last = min(first + limit - 1, log.last_index)
        entries = log.slice(first, last, LOG_BYTES_MAX)
        return json_response(
            {
                "MemberID": self._api.cluster.member_id,
                "FirstIndex": log.first_index,
                "LastIndex": log.last_index,
                "CommitIndex": log.commit,
                "Entries": [entry_object(entry) for entry in entries],
            }
        )

    async def dump(self, request: Request) -> Response:
        limit = int(number_of(request, "limit", LOG_ENTRIES_DEFAULT, 1, LOG_ENTRIES_MAX))
        try:
            after = bytes.fromhex(request.query_params.get("after", ""))
        except ValueError as error:
            raise InvalidRequest(f"invalid after: {error}; it is the Next of a page") from error
        start = after + b"\x00" if after else b""
        page = list(itertools.islice(self._api.state.store.between(start, b""), limit))
        is_last = len(page) < limit
        return json_response(
            {
                "Items": [
                    {**stored_object(found.key, found.value), "Modified": found.modified}
                    for found in page
                ],
                "Next": "" if is_last else page[-1].key.hex(),
            }
        )

    # Changing

    async def add(self, request: Request) -> Response:
        body = await read_body(request)
        wanted = _decoded(body, _NewMember)
        member = Member(MemberId(wanted.id), wanted.raft, wanted.http)
        return await self._at_leader(request, body, lambda: self._inside.members.add(member))

    async def promote(self, request: Request) -> Response:
        member_id = MemberId(request.path_params["member_id"])

        async def promote() -> None:
            # The vote is Raft's own entry, which holds no record.
            self._inside.members.require_leadership()
            await self._api.record(member_id)
            await self._inside.members.promote(member_id)

        return await self._at_leader(request, b"", promote)

    async def remove(self, request: Request) -> Response:
        member_id, is_revoked = (
            MemberId(request.path_params["member_id"]),
            flag_of(request, "revoke"),
        )
        target = request.scope["path"] + ("?revoke=1" if is_revoked else "")
        return await at_leader(
            self._api,
            request,
            "DELETE",
            target,
            b"",
            lambda: self._inside.members.remove(
                member_id, takes_lost_identity=True, is_revoked=is_revoked
            ),
        )

    async def transfer(self, request: Request) -> Response:
        body = await read_body(request)
        wanted = _decoded(body or b"{}", _Transfer)
        to = None if wanted.to is None else MemberId(wanted.to)

        async def hand_over() -> dict[str, str]:
            self._inside.members.require_leadership()
            await self._api.record(to or "")
            return {"Leader": await self._inside.members.transfer(to)}

        return await self._at_leader(request, body, hand_over)

    async def rotate_data_key(self, request: Request) -> Response:
        """Of the master that is asked, whoever leads."""
        rotation = self._inside.key_rotation
        await self._api.record(self._api.cluster.member_id)
        return json_response({"Key": await rotation.rotate()})

    @property
    def _inside(self) -> Inside:
        if self._api.inside is None:
            raise NotSupported("this master runs alone in memory: it has no Raft log")
        return self._api.inside

    async def _at_leader(
        self, request: Request, body: bytes, act: Callable[[], Awaitable[Any]]
    ) -> Response:
        return await at_leader(self._api, request, request.method, request.scope["path"], body, act)

    async def _view_of(self, member: Member) -> tuple[MemberId, Any]:
        try:
            answer = await self._api.ask_master(
                member.http, "GET", "/essaim/raft", hops=1, timeout_s=STATUS_TIMEOUT_S
            )
            return member.id, msgspec.json.decode(answer.body) if answer.status == 200 else None
        except (Unavailable, msgspec.DecodeError):
            return member.id, None


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNDECODABLE as error:
        raise InvalidRequest(f"invalid request body: {error}") from error
