"""What all handlers share: the state with its read barrier, guarded writes, bodies, answers."""

import random
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from essaim_master.authority.desk import AuthorityDesk
from essaim_master.bus_users.parts import BusParts
from essaim_master.control.network_reports import ReceivedReport
from essaim_master.http.acting import acting
from essaim_master.http.audit_trail import AuditTrail
from essaim_master.http.caller import Caller
from essaim_master.http.docker_objects import ManagerStatus, manager_statuses
from essaim_master.http.encoded_objects import EncodedObjects, encode_json
from essaim_master.http.errors import BodyTooLarge
from essaim_master.http.host_facts import HostFacts
from essaim_master.http.network_settings import NetworkSettings
from essaim_master.http.peer_requests import AskMaster, PeerRequests
from essaim_master.http.permissions import check_labels, check_spec, check_stack, check_writes
from essaim_master.http.raft_view import Inside
from essaim_master.http.scope import SeenState, StackState
from essaim_master.images.images import Images
from essaim_master.lease_keeper import LeaseKeeper
from essaim_master.state.audit_records import target_of
from essaim_master.state.cluster import Cluster
from essaim_master.state.writes import TRANSACTION_PAYLOAD_BYTES_MAX, Writes
from essaim_master.vault import Vault
from essaim_shared.clock import Clock
from essaim_shared.errors import InvalidRequest, NoLeader
from essaim_shared.figures import ContainerFigures, NodeFigures
from essaim_shared.ids import NodeId, TaskId
from essaim_shared.limits import HTTP_BODY_BYTES_MAX
from essaim_shared.objects import Network
from essaim_shared.spec import ServiceSpec

READ_TIMEOUT_S = 3.0
WRITE_TIMEOUT_S = 5.0
"""Covers an election or two; a client that waits longer is better told."""

BODY_DRAINED_BYTES_MAX = 16 * 1024 * 1024
"""Of a body that is too large so much is read and dropped, so that its sender hears the answer
instead of a broken pipe."""

OURSELVES = Caller("local", "master", "admin")

JSON_TYPE = "application/json"

GUARDED_ATTEMPTS_MAX = 5
"""Of a change that names no version and loses a race against another writer."""


class Figures(Protocol):
    """The latest figures of nodes and tasks, as agents reported them."""

    def nodes(self) -> Mapping[NodeId, NodeFigures]: ...

    def containers(self) -> Mapping[TaskId, ContainerFigures]: ...


class NetworkReportsHeard(Protocol):
    """The newest report of each node on its networks."""

    def received(self) -> Mapping[NodeId, ReceivedReport]: ...


class Api:
    """One per master."""

    def __init__(
        self,
        cluster: Cluster,
        clock: Clock,
        rng: random.Random,
        figures: Figures,
        facts: HostFacts,
        inside: Inside | None = None,
        images: Images | None = None,
        networks: NetworkSettings | None = None,
        network_reports: NetworkReportsHeard | None = None,
        ask_master: AskMaster | None = None,
        authority: AuthorityDesk | None = None,
        bus_users: BusParts | None = None,
    ) -> None:
        self.cluster = cluster
        self.state = cluster.state
        self.clock = clock
        self.rng = rng
        self.figures = figures
        self.facts = facts
        self.inside = inside
        self.images = images or Images()
        self.networks = networks or NetworkSettings()
        self.network_reports = network_reports
        self.ask_master = ask_master or PeerRequests(None).ask
        self.authority = authority
        self.bus_users = bus_users
        self._trail = AuditTrail(cluster.state, cluster.member_id, clock, "api")
        self.encoded = EncodedObjects(cluster.state)
        self.leases = LeaseKeeper(cluster, clock)
        """Whoever starts the master runs it."""

    @property
    def vault(self) -> Vault:
        return self.images.vault

    def close(self) -> None:
        self.encoded.close()

    @property
    def seen(self) -> SeenState:
        """What of the state the caller of this request is shown: for lists, and for finding what
        he names."""
        caller = _caller()
        return StackState(self.state, caller.stack) if caller.stack else self.state

    def check_stack(self, stack: str) -> None:
        """Raises NotAllowed for one that the caller may not change."""
        check_stack(_caller(), stack)

    def check_network(self, network: Network) -> None:
        """Raises NotAllowed for one that the caller may see and not remove: its users are told to
        those who may."""
        check_labels(_caller(), f"network {network.name}", network.labels)

    def check_spec(self, spec: ServiceSpec) -> None:
        """Raises NotAllowed for a service that the caller may not ask for. `commit` does so too;
        this is for those who check everything before they write anything."""
        check_spec(_caller(), spec, self.state)

    async def read_barrier(self, request: Request) -> None:
        """Make this read see all that was acknowledged before it, unless the client asks for
        what this master has (`consistency=local`). Raises NoLeader, InvalidRequest."""
        consistency = request.query_params.get("consistency", "")
        if consistency not in ("", "linearizable", "local"):
            raise InvalidRequest(
                f"invalid consistency '{consistency}': it is linearizable or local"
            )
        if consistency != "local":
            await self.catch_up()

    async def catch_up(self) -> None:
        """Raises NoLeader."""
        try:
            await self.cluster.read_barrier(READ_TIMEOUT_S)
        except NoLeader as error:
            raise _no_quorum() from error

    async def record(self, target: str, detail: str = "") -> None:
        """An audit record by itself, before something is done that is no write to the state.
        Raises NoLeader, OutcomeUnknown: then it must not be done."""
        writes = Writes()
        self._trail.add_of(writes, target, detail)
        for transaction in writes.transactions():
            await self.cluster.commit(transaction, WRITE_TIMEOUT_S)

    async def commit(
        self,
        writes: Writes,
        bytes_max: int = TRANSACTION_PAYLOAD_BYTES_MAX,
        detail: str = "",
    ) -> bool:
        """Write all or nothing, with its audit record; False when one of the compares did not
        hold. `detail`: what the record says beside who did what to which object; never any data.

        Raises NotAllowed when the caller may not write one of them, NoLeader, OutcomeUnknown, and
        InvalidRequest when they do not fit one transaction.
        """
        check_writes(_caller(), writes, self.state)
        if detail:
            self._trail.add_of(writes, target_of(writes, self.state), detail)
        else:
            self._trail.add(writes)
        transactions = writes.transactions(bytes_max)
        if len(transactions) != 1:
            raise InvalidRequest(
                f"the object is too large: with its previous spec it must fit {bytes_max} bytes"
            )
        try:
            result = await self.cluster.commit(transactions[0], WRITE_TIMEOUT_S)
        except NoLeader as error:
            raise _no_quorum() from error
        return result.succeeded

    def manager_statuses(self) -> dict[NodeId, ManagerStatus]:
        return manager_statuses(
            self.cluster.members, self.cluster.leadership(), self.state.node_status
        )


class ErrorBody(msgspec.Struct, frozen=True):
    """Docker's form of every error."""

    message: str


async def read_body(request: Request, bytes_max: int = HTTP_BODY_BYTES_MAX) -> bytes:
    """The whole body, which must be declared as JSON, as Docker demands.

    That keeps web pages out: a browser sends this type to a foreign address only after asking
    it, and it is never told yes. Raises BodyTooLarge, InvalidRequest.
    """
    parts: list[bytes] = []
    size_bytes = 0
    async for part in request.stream():
        size_bytes += len(part)
        if size_bytes <= bytes_max:
            parts.append(part)
        elif size_bytes > BODY_DRAINED_BYTES_MAX:
            break
    if size_bytes > bytes_max:
        raise BodyTooLarge(bytes_max)
    content_type = request.headers.get("Content-Type", "")
    if size_bytes and content_type.partition(";")[0].strip().lower() != JSON_TYPE:
        raise InvalidRequest(
            f"unsupported Content-Type header ({content_type}): must be '{JSON_TYPE}'"
        )
    return b"".join(parts)


def json_response(value: Any, status_code: int = 200) -> Response:
    return encoded_response(encode_json(value), status_code)


def encoded_response(body: bytes, status_code: int = 200) -> Response:
    return Response(body, status_code, media_type=JSON_TYPE)


def error_response(message: str, status_code: int) -> Response:
    return json_response(ErrorBody(message), status_code)


def version_of(request: Request, what: str) -> int:
    """The `version` that an update must name. Raises InvalidRequest."""
    text = request.query_params.get("version", "")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidRequest(f"invalid {what} version '{text}': it is the object's Version.Index")
    return int(text)


def flag_of(request: Request, name: str) -> bool:
    """A boolean parameter as Docker reads it: anything but absent, 0, no, false and none."""
    text = request.query_params.get(name, "").strip().lower()
    return text not in ("", "0", "no", "false", "none")


def number_of(request: Request, name: str, default: float, least: float, most: float) -> float:
    """A number in a parameter, cut to what is allowed. Raises InvalidRequest."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError as error:
        raise InvalidRequest(f"invalid {name} '{text}': it is a number") from error
    if number != number:
        raise InvalidRequest(f"invalid {name} '{text}': it is a number")
    return min(max(number, least), most)


def _caller() -> Caller:
    """Of this request; for what runs without one, a test or a tool, this process itself."""
    one = acting()
    return OURSELVES if one is None else one.caller


def _no_quorum() -> NoLeader:
    return NoLeader(
        "no quorum of masters: the cluster has no leader now; tasks keep running, "
        "try again when a majority of the masters is back"
    )
