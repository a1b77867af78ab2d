"""`/essaim/kv/…`: the key-value store for users. JSON as in `kv_json.py`.

    GET    /essaim/kv                       revision, size, quota, alarm, what history there is
    POST   /essaim/kv/txn                   a transaction: {"If", "Then", "Else"}
    GET    /essaim/kv/keys/KEY              {"Revision", "KV"}, or 404; with ?revision=N as of then
    PUT    /essaim/kv/keys/KEY              {"Value", "Lease", "PrevKV"} → {"Revision", "PrevKVs"}
    DELETE /essaim/kv/keys/KEY              → {"Revision", "Deleted", "PrevKVs"}
    GET    /essaim/kv/range                 ?prefix= or ?start=&end=, &limit= &revision= → a page
    DELETE /essaim/kv/range                 ?prefix= or ?start=&end= → as DELETE of a key
    GET    /essaim/kv/watch                 ?prefix= or ?start=&end= or ?key=, &revision= &prev_kv=:
                                            lines, see `kv_watch_stream.py`
    POST   /essaim/kv/compact               {"Revision"}: forget the history up to it
    GET    /essaim/kv/leases                all leases
    POST   /essaim/kv/leases                {"TTL": seconds, "ID"} → {"ID", "TTL"}
    GET    /essaim/kv/leases/ID             {"ID", "TTL", "Remaining", "Keys"}
    POST   /essaim/kv/leases/ID/keepalive   full time again → {"ID", "TTL"}
    DELETE /essaim/kv/leases/ID             revoke it: its keys go with it

Reads take `consistency=local` for what this master has, without asking the others. With
`base64=1` the keys in path and query are URL-safe base64. A revision whose history is gone is
answered with 410 and `{"message", "Oldest"}`.
"""

import asyncio
import base64
import binascii
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import (
    WRITE_TIMEOUT_S,
    Api,
    encoded_response,
    flag_of,
    json_response,
    read_body,
)
from essaim_master.http.caller import still_proved
from essaim_master.http.kv_json import (
    Base64,
    PutJson,
    Text,
    TransactionJson,
    bytes_of,
    check_size,
    checked_key,
    kv_json,
    lease_id_of,
    range_of,
    text_of,
    transaction_of,
    transaction_result,
)
from essaim_master.http.kv_watch_stream import LINES_TYPE, WatchStream, key_lines
from essaim_master.http.peer_requests import FORWARDED_HEADER
from essaim_master.kv.commands import (
    Compact,
    DeleteRange,
    GrantLease,
    KeyValue,
    Operation,
    Put,
    RevokeLease,
    Transaction,
    TransactionResult,
    WriteResult,
)
from essaim_master.kv.errors import Compacted
from essaim_master.kv.leases import LEASE_TTL_S_MAX, LEASE_TTL_S_MIN, Lease
from essaim_master.kv.reading import PAGE_LENGTH_MAX, Page, read_page
from essaim_master.kv.user_keys import user_key
from essaim_master.kv.watch import Span, WatchHub
from essaim_master.versions import Feature, is_enabled
from essaim_shared.errors import InvalidRequest, NoLeader, NotFound, Unavailable
from essaim_shared.undecodable import UNDECODABLE

T = TypeVar("T")

STREAMS_MAX = 200
"""Watches over HTTP; those who watch leave connections for those who ask."""
REVISION_MAX = 2**63 - 1
FORWARD_TIMEOUT_S = 5.0


class CompactJson(msgspec.Struct, frozen=True, rename="pascal", forbid_unknown_fields=True):
    revision: int


class GrantJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ttl_s: int = msgspec.field(name="TTL")
    id: str = msgspec.field(default="", name="ID")


class KvRoutes:
    """One per master."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._store = api.state.store
        self._hub = WatchHub(self._store)
        self._ended = asyncio.Event()

    @property
    def watches(self) -> int:
        """How many clients watch keys now."""
        return len(self._hub)

    def close(self) -> None:
        """End the watches."""
        self._ended.set()
        self._hub.close()

    def routes(self) -> list[Route]:
        return [
            Route("/essaim/kv", self.status, methods=["GET"]),
            Route("/essaim/kv/txn", self.transact, methods=["POST"]),
            Route("/essaim/kv/keys/{key:path}", self.get, methods=["GET"]),
            Route("/essaim/kv/keys/{key:path}", self.put, methods=["PUT"]),
            Route("/essaim/kv/keys/{key:path}", self.delete, methods=["DELETE"]),
            Route("/essaim/kv/range", self.range, methods=["GET"]),
            Route("/essaim/kv/range", self.delete_range, methods=["DELETE"]),
            Route("/essaim/kv/watch", self.watch, methods=["GET"]),
            Route("/essaim/kv/compact", self.compact, methods=["POST"]),
            Route("/essaim/kv/leases", self.leases, methods=["GET"]),
            Route("/essaim/kv/leases", self.grant, methods=["POST"]),
            Route("/essaim/kv/leases/{id}", self.lease, methods=["GET"]),
            Route("/essaim/kv/leases/{id}", self.revoke, methods=["DELETE"]),
            Route("/essaim/kv/leases/{id}/keepalive", self.keep_alive, methods=["POST"]),
        ]

    async def status(self, request: Request) -> Response:
        store = self._store
        return json_response(
            {
                "Revision": store.revision,
                "OldestRevision": store.history.compacted + 1,
                "SizeBytes": store.size_bytes,
                "QuotaBytes": store.quota_bytes,
                "NoSpace": store.is_full,
                "Leases": len(store.leases),
                "Watches": len(self._hub),
            }
        )

    async def transact(self, request: Request) -> Response:
        asked = _decode(await read_body(request), TransactionJson, "transaction")
        transaction = transaction_of(asked)
        result = await self._commit(transaction)
        return json_response(transaction_result(transaction, result))

    async def get(self, request: Request) -> Response:
        key = checked_key(_path_key(request))
        page = await self._page(request, key, key + b"\0")
        if not page.found:
            raise NotFound(f"no key '{request.path_params['key']}'")
        return json_response({"Revision": page.revision, "KV": kv_json(page.found[0])})

    async def put(self, request: Request) -> Response:
        asked = _decode(await read_body(request), PutJson, "value")
        lease = lease_id_of(asked.lease) if asked.lease else 0
        key = checked_key(_path_key(request))
        result = await self._commit_one(Put(key, bytes_of(asked.value), lease, asked.prev_kv))
        before = [kv_json(value) for value in _before(result)]
        return json_response({"Revision": result.revision, "PrevKVs": before})

    async def delete(self, request: Request) -> Response:
        key = checked_key(_path_key(request))
        return await self._delete(request, key, key + b"\0")

    async def range(self, request: Request) -> Response:
        page = await self._page(request, *_query_range(request))
        return json_response(
            {
                "Revision": page.revision,
                "KVs": [kv_json(value) for value in page.found],
                "Count": page.count,
                "More": page.more,
            }
        )

    async def delete_range(self, request: Request) -> Response:
        return await self._delete(request, *_query_range(request))

    async def watch(self, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type=LINES_TYPE)
        if len(self._hub) >= STREAMS_MAX:
            raise Unavailable(f"{STREAMS_MAX} clients watch this master already: ask another one")
        span = Span(*_query_range(request))
        await self._api.read_barrier(request)
        revision = _integer_of(request, "revision", 0, REVISION_MAX)
        lines = key_lines(flag_of(request, "prev_kv"))
        return WatchStream(
            self._hub, span, revision, lines, self._api.clock, self._ended, still_proved(request)
        )

    async def compact(self, request: Request) -> Response:
        asked = _decode(await read_body(request), CompactJson, "revision")
        if asked.revision < 1:
            raise InvalidRequest("the revision to compact is at least 1")
        result = await self._commit_one(Compact(asked.revision))
        return json_response({"Revision": result.revision})

    # Leases

    async def leases(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        return json_response([_lease_json(lease) for lease in self._store.leases.values()])

    async def grant(self, request: Request) -> Response:
        asked = _decode(await read_body(request), GrantJson, "lease")
        if not LEASE_TTL_S_MIN <= asked.ttl_s <= LEASE_TTL_S_MAX:
            raise InvalidRequest(
                f"invalid TTL {asked.ttl_s}: it is {LEASE_TTL_S_MIN} to {LEASE_TTL_S_MAX} seconds"
            )
        lease_id = lease_id_of(asked.id) if asked.id else self._api.rng.randrange(1, 2**63)
        await self._commit_one(GrantLease(lease_id, asked.ttl_s))
        return json_response({"ID": f"{lease_id:x}", "TTL": asked.ttl_s}, 201)

    async def revoke(self, request: Request) -> Response:
        lease_id = lease_id_of(request.path_params["id"])
        await self._api.catch_up()
        if lease_id not in self._store.leases:
            raise NotFound(f"no lease {lease_id:x}: it expired or was revoked")
        result = await self._commit_one(RevokeLease(lease_id))
        return json_response({"Revision": result.revision})

    async def lease(self, request: Request) -> Response:
        lease_id = lease_id_of(request.path_params["id"])
        try:
            lease, remaining_s = await self._api.leases.remaining_s(lease_id)
        except NoLeader:
            return await self._ask_leader(request, f"/essaim/kv/leases/{lease_id:x}")
        keys = [text_of(user_key(key)) for key in sorted(lease.keys)]
        return json_response(
            {**_lease_json(lease), "Remaining": round(remaining_s, 3), "Keys": keys}
        )

    async def keep_alive(self, request: Request) -> Response:
        lease_id = lease_id_of(request.path_params["id"])
        try:
            lease = await self._api.leases.keep_alive(lease_id)
        except NoLeader:
            return await self._ask_leader(request, f"/essaim/kv/leases/{lease_id:x}/keepalive")
        return json_response(_lease_json(lease))

    async def _ask_leader(self, request: Request, target: str) -> Response:
        """Only the leader knows the time that leases have left. Raises NoLeader."""
        cluster = self._api.cluster
        leader = cluster.leadership().leader
        address = next((member.http for member in cluster.members if member.id == leader), None)
        if address is None or leader == cluster.member_id or FORWARDED_HEADER in request.headers:
            raise NoLeader("no leader keeps the leases at the moment: try again")
        answer = await self._api.ask_master(
            address, request.method, target, hops=1, timeout_s=FORWARD_TIMEOUT_S
        )
        return encoded_response(answer.body, answer.status)

    # What they share

    async def _commit(self, transaction: Transaction) -> TransactionResult:
        check_size(transaction)
        if not is_enabled(self._api.state.cluster_version, Feature.USER_KEYS):
            raise Unavailable(
                "not every master is known to understand keys of users yet: try again in a few "
                "seconds, or when all masters are updated"
            )
        return await self._api.cluster.commit(transaction, WRITE_TIMEOUT_S)

    async def _commit_one(self, operation: Operation) -> TransactionResult:
        return await self._commit(Transaction(then=(operation,)))

    async def _delete(self, request: Request, start: bytes, end: bytes) -> Response:
        result = await self._commit_one(DeleteRange(start, end, flag_of(request, "prev_kv")))
        (written,) = result.results
        assert isinstance(written, WriteResult)
        return json_response(
            {
                "Revision": result.revision,
                "Deleted": written.count,
                "PrevKVs": [kv_json(value) for value in _before(result)],
            }
        )

    async def _page(self, request: Request, start: bytes, end: bytes) -> Page:
        limit = _integer_of(request, "limit", 0, PAGE_LENGTH_MAX)
        revision = _integer_of(request, "revision", 0, REVISION_MAX)
        await self._api.read_barrier(request)
        return read_page(self._store, start, end, limit, revision)


def compacted_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, Compacted)
    return json_response({"message": str(error), "Oldest": error.oldest}, error.http_status)


def _decode(body: bytes, wanted: type[T], what: str) -> T:
    """Raises InvalidRequest."""
    if not body.strip():
        raise InvalidRequest(f"invalid JSON: the request has no body, a {what} is expected")
    try:
        return msgspec.json.decode(body, type=wanted)
    except RecursionError as error:
        raise InvalidRequest(f"invalid {what}: nested too deeply") from error
    except UNDECODABLE as error:
        raise InvalidRequest(f"invalid {what}: {error}") from error


def _path_key(request: Request) -> bytes:
    """Raises InvalidRequest."""
    return bytes_of(_text(request, request.path_params["key"]))


def _query_range(request: Request) -> tuple[bytes, bytes]:
    """As it is stored; all keys when the query names none. Raises InvalidRequest."""
    query = request.query_params
    named = {
        name: _text(request, query[name])
        for name in ("key", "prefix", "start", "end")
        if name in query
    }
    if not named:
        named["prefix"] = ""
    return range_of(named.get("key"), named.get("prefix"), named.get("start"), named.get("end"))


def _text(request: Request, text: str) -> Text:
    """Raises InvalidRequest."""
    if not flag_of(request, "base64"):
        return text
    try:
        return Base64(base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InvalidRequest(f"'{text}' is not URL-safe base64") from error


def _integer_of(request: Request, name: str, least: int, most: int) -> int:
    """0 when the query does not have it. Raises InvalidRequest."""
    text = request.query_params.get(name)
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise InvalidRequest(f"invalid {name} '{text}': it is a number from {least} to {most}")
    return int(text)


def _before(result: TransactionResult) -> tuple[KeyValue, ...]:
    return tuple(
        value for part in result.results if isinstance(part, WriteResult) for value in part.before
    )


def _lease_json(lease: Lease) -> dict[str, Any]:
    return {"ID": f"{lease.id:x}", "TTL": lease.ttl_s}
