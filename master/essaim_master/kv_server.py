"""The native key-value protocol on a TCP port of every master.

Requests of all connections that arrive in one turn of the event loop are proposed together, and
what a turn answers leaves each connection in one write; no request has a task or a future of its
own. Reads of a turn share one round of the quorum.

What a client can make a master hold is bounded: connections, requests without an answer, bytes of a
frame, bytes that wait to be sent. A client that does not read is not read from, either.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from essaim_master import kv_wire
from essaim_master.kv.answers import OPENING_CLIENT, session_client
from essaim_master.kv.commands import (
    Command,
    ProposalId,
    Transaction,
    TransactionResult,
    encode_command,
)
from essaim_master.kv.store import KeyValueStore
from essaim_master.kv_admission import ClientTrust
from essaim_master.listening import Patience, bound_socket, check_listen_host, set_options
from essaim_master.raft_waiters import Waiter
from essaim_master.refusals import Refusals
from essaim_shared.clock import Clock
from essaim_shared.errors import BrokenInvariant, ConfigError, EssaimError, MalformedMessage
from essaim_shared.ids import MemberId
from essaim_shared.kv_protocol import (
    KV_PROTOCOL_VERSION,
    REQUEST_TIMEOUT_S_MAX,
    ClientFrame,
    ClientFrameReader,
    Failure,
    FailureCode,
    Greeting,
    MasterFrame,
    OpenSession,
    Ping,
    Pong,
    RangeRequest,
    SessionOpened,
    TransactionRequest,
    Welcome,
    encode_frame,
)
from essaim_shared.limits import KV_IN_FLIGHT_MAX
from essaim_shared.trust.tls import PeerCertificate, peer_certificate
from essaim_shared.trust.tls_server import listen as listen_on

CLIENT_PATIENCE = Patience(unacknowledged_ms=10_000, keepalive_s=10, probes=3)
CONNECTIONS_MAX = 256
GREETING_TIMEOUT_S = 2.0
KERNEL_BACKLOG_BYTES = 256 * 1024
"""Bytes asyncio may hold for a connection before it is no longer read from."""
WAITING_BYTES_MAX = 32 * 1024 * 1024
"""Answers that a client did not take; beyond that it is cut off."""
READ_SLICE_BYTES = 512 * 1024
READ_SLICE_COUNT = 256
"""Reads are answered in slices of so much, so that no other client and no heartbeat is kept."""
READ_OVERHEAD_BYTES = 64
BACKLOG = 256

_log = logging.getLogger(__name__)


class KeyValueNode(Protocol):
    """What the server needs of a RaftNode."""

    @property
    def leader(self) -> MemberId | None: ...

    def submit(
        self, command: bytes, proposal_id: ProposalId, timeout_s: float, waiter: Waiter
    ) -> None: ...

    def begin_read(self, timeout_s: float) -> asyncio.Future[int]: ...


class KvServer:
    def __init__(
        self,
        node: KeyValueNode,
        store: KeyValueStore,
        clock: Clock,
        rng: random.Random,
        cluster_id: str,
        member_id: MemberId,
        listen: tuple[str, int],
        are_sessions_known: Callable[[], bool],
        trust: ClientTrust | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        """`listen` is (host, port); `are_sessions_known` tells whether every master understands an
        entry that opens a session. Without `trust` connections are neither encrypted nor
        authenticated: then it raises ConfigError for a host outside loopback and private
        networks."""
        check_listen_host("kv_listen", listen[0], is_open=trust is None)
        self.trust = trust
        self._refusals = refusals or Refusals()
        self.node = node
        self.store = store
        self.clock = clock
        self.rng = rng
        self.cluster_id = cluster_id
        self.member_id = member_id
        self.are_sessions_known = are_sessions_known
        self._listen = listen
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._unsent: list[_Connection] = []
        """Connections with answers of this turn."""
        self._reads: list[tuple[_Connection, RangeRequest]] = []
        """Linearizable reads of this turn."""

    async def start(self) -> None:
        """Raises ConfigError when it cannot listen."""
        host, port = self._listen
        self._loop = asyncio.get_running_loop()
        context = None if self.trust is None else self.trust.server
        try:
            self._server = await listen_on(
                lambda: _Connection(self),
                bound_socket(host, port),
                context,
                BACKLOG,
                lambda client, reason: self.refused(f"{client}: {reason}"),
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen for key-value clients on {host}:{port}: "
                f"{error.strerror or error}; choose another kv_listen or stop who uses it"
            ) from error

    async def stop(self) -> None:
        """Cut all clients off: they go on at another master, with what they have no answer to."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        await self._server.wait_closed()
        self._server = None

    @property
    def listening(self) -> tuple[str, int]:
        """Where it listens; tells the port when 0 was asked for."""
        if self._server is None:
            return self._listen
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    def abort_connections(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    def recheck(self) -> None:
        """Whom this master admits has changed: cut off who is not among them."""
        if self.trust is None:
            return
        for connection in list(self._connections):
            if self.trust.refusal(connection.certificate) is not None:
                connection.abort()

    # What connections ask

    def connected(self, connection: "_Connection") -> bool:
        """Whether there is room for one more."""
        if self._server is None or len(self._connections) >= CONNECTIONS_MAX:
            return False
        self._connections.add(connection)
        return True

    def disconnected(self, connection: "_Connection") -> None:
        self._connections.discard(connection)

    def refused(self, reason: str) -> None:
        self._refusals.tell(f"refused a key-value client: {reason}")

    def flush_soon(self, connection: "_Connection") -> None:
        """Once the turn's answers are together."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(connection)

    def read_soon(self, connection: "_Connection", request: RangeRequest) -> None:
        if not self._reads:
            self._loop.call_soon(self._begin_reads)
        self._reads.append((connection, request))

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        for connection in unsent:
            connection.flush()

    def _begin_reads(self) -> None:
        reads, self._reads = self._reads, []
        timeout_s = max(_timeout_s(request.timeout_ms) for _, request in reads)
        try:
            confirmed = self.node.begin_read(timeout_s)
        except EssaimError as error:
            _refuse_reads(reads, error)
        else:
            confirmed.add_done_callback(lambda done: _reads_confirmed(reads, done))


def _reads_confirmed(
    reads: "list[tuple[_Connection, RangeRequest]]", done: asyncio.Future[int]
) -> None:
    if done.cancelled():
        return
    error = done.exception()
    if error is None:
        connections = dict.fromkeys(connection for connection, _ in reads)
        for connection, request in reads:
            connection.readable.append(request)
        for connection in connections:
            connection.serve_reads()
    elif isinstance(error, EssaimError):
        _refuse_reads(reads, error)
    else:
        raise error


def _refuse_reads(reads: "list[tuple[_Connection, RangeRequest]]", error: EssaimError) -> None:
    for connection, request in reads:
        connection.answer(kv_wire.to_failure(request.number, error))


class _Reply:
    """Waits for the result of one proposal; see `raft_waiters.Waiter`."""

    __slots__ = ("_connection", "_number")

    def __init__(self, connection: "_Connection", number: int) -> None:
        self._connection = connection
        self._number = number

    def done(self) -> bool:
        return self._connection.is_closed

    def set_result(self, result: object, /) -> None:
        if not isinstance(result, TransactionResult):
            raise BrokenInvariant(f"request {self._number} was answered with a {type(result)}")
        self._connection.answer(kv_wire.to_answer(self._number, result))

    def set_exception(self, error: EssaimError, /) -> None:
        self._connection.answer(kv_wire.to_failure(self._number, error))


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: KvServer) -> None:
        self._server = server
        self._reader = ClientFrameReader()
        self._transport: asyncio.Transport | None = None
        self.certificate: PeerCertificate | None = None
        self._greeting_timeout: asyncio.TimerHandle | None = None
        self._is_greeted = False
        self._client_id: str | None = None
        """Of its session, once there is one."""
        self._in_flight = 0
        self._frames: list[bytes] = []
        self._is_congested = False
        self.readable: deque[RangeRequest] = deque()
        """Reads that may be answered from the state as it is."""
        self._is_serving_scheduled = False

    @property
    def is_closed(self) -> bool:
        return self._transport is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._server.connected(self):
            self._refuse(f"{CONNECTIONS_MAX} clients are connected to this master: try another")
            return
        set_options(self._transport, CLIENT_PATIENCE)
        connection = self._transport.get_extra_info("ssl_object")
        if connection is not None:
            self.certificate = peer_certificate(connection)
        self._transport.set_write_buffer_limits(high=KERNEL_BACKLOG_BYTES)
        self._greeting_timeout = asyncio.get_running_loop().call_later(
            GREETING_TIMEOUT_S, self.abort
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._cancel_timeout()
        self._frames.clear()
        self.readable.clear()
        self._server.disconnected(self)

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        try:
            for frame in self._reader.feed(data):
                if type(frame) is TransactionRequest and self._client_id is not None:
                    self._transact(frame)
                elif self._is_greeted:
                    self._rare(frame)
                elif not self._greeted(frame):
                    return
        except MalformedMessage as error:
            peer = self._transport.get_extra_info("peername")
            _log.warning("closing the connection of key-value client %s: %s", peer, error)
            self.abort()

    def pause_writing(self) -> None:
        self._is_congested = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_congested = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self.serve_reads()

    # Answers

    def answer(self, frame: MasterFrame) -> None:
        """Of a request that was counted as in flight."""
        self._in_flight -= 1
        if type(frame) is SessionOpened:
            self._client_id = session_client(frame.session)
        self._send(frame)

    def flush(self) -> None:
        frames, self._frames = self._frames, []
        if self._transport is None or not frames:
            return
        self._transport.write(b"".join(frames))
        if self._transport.get_write_buffer_size() > WAITING_BYTES_MAX:
            _log.warning(
                "cutting off key-value client %s: it does not take its answers",
                self._transport.get_extra_info("peername"),
            )
            self.abort()

    def serve_reads(self) -> None:
        """Answer reads as far as the client takes them."""
        left_bytes, left_count = READ_SLICE_BYTES, READ_SLICE_COUNT
        while self.readable and not self._is_congested:
            if left_bytes <= 0 or left_count == 0:
                self.flush()
                self._serve_soon()
                break
            answer = kv_wire.read(self.readable.popleft(), self._server.store)
            self.answer(answer)
            left_bytes -= READ_OVERHEAD_BYTES + kv_wire.size_bytes(answer.result)
            left_count -= 1

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _serve_soon(self) -> None:
        if not self._is_serving_scheduled:
            self._is_serving_scheduled = True
            asyncio.get_running_loop().call_soon(self._serve_scheduled)

    def _serve_scheduled(self) -> None:
        self._is_serving_scheduled = False
        self.serve_reads()

    def _send(self, frame: MasterFrame) -> None:
        if self._transport is None:
            return
        if not self._frames:
            self._server.flush_soon(self)
        self._frames.append(encode_frame(frame))

    # Requests

    def _greeted(self, frame: ClientFrame) -> bool:
        if type(frame) is not Greeting:
            raise MalformedMessage(f"{type(frame).__name__} before the greeting")
        server = self._server
        if frame.protocol_version != KV_PROTOCOL_VERSION:
            self._refuse(
                f"the client speaks key-value protocol {frame.protocol_version}, "
                f"master {server.member_id} speaks {KV_PROTOCOL_VERSION}"
            )
        elif frame.cluster_id not in ("", server.cluster_id):
            self._refuse(
                f"the client looks for cluster {frame.cluster_id!r}, "
                f"master {server.member_id} belongs to cluster {server.cluster_id!r}"
            )
        elif server.trust is not None and (why := server.trust.refusal(self.certificate)):
            self._refuse(why)
        else:
            self._is_greeted = True
            self._cancel_timeout()
            if frame.session > 0:
                self._client_id = session_client(frame.session)
            self._send(
                Welcome(
                    KV_PROTOCOL_VERSION,
                    server.cluster_id,
                    server.member_id,
                    server.node.leader,
                    KV_IN_FLIGHT_MAX,
                )
            )
        return self._is_greeted

    def _rare(self, frame: ClientFrame) -> None:
        match frame:
            case Ping(number):
                self._send(Pong(number))
            case RangeRequest():
                if self._counts(frame.number):
                    self._read(frame)
            case OpenSession(number, timeout_ms):
                if not self._server.are_sessions_known():
                    message = "some masters are of an older build: update them, then write"
                    self._send(Failure(number, FailureCode.UNAVAILABLE, message))
                elif self._counts(number):
                    proposal = ProposalId(OPENING_CLIENT, self._server.rng.getrandbits(63))
                    self._propose(number, timeout_ms, proposal, Transaction())
            case TransactionRequest(number):
                self._send(
                    Failure(
                        number, FailureCode.SESSION_FORGOTTEN, "open a session before you write"
                    )
                )
            case Greeting():
                raise MalformedMessage("a second greeting")

    def _transact(self, request: TransactionRequest) -> None:
        number = request.number
        if self._client_id is None or not self._counts(number):
            return
        try:
            transaction = kv_wire.to_transaction(request)
        except EssaimError as error:
            self.answer(kv_wire.to_failure(number, error))
            return
        self._propose(number, request.timeout_ms, ProposalId(self._client_id, number), transaction)

    def _propose(
        self, number: int, timeout_ms: int, proposal: ProposalId, transaction: Transaction
    ) -> None:
        server = self._server
        try:
            command = encode_command(Command(proposal, server.clock.wall_ns(), transaction))
            server.node.submit(command, proposal, _timeout_s(timeout_ms), _Reply(self, number))
        except EssaimError as error:
            self.answer(kv_wire.to_failure(number, error))

    def _read(self, request: RangeRequest) -> None:
        if request.local:
            self.readable.append(request)
            self._serve_soon()
        else:
            self._server.read_soon(self, request)

    def _counts(self, number: int) -> bool:
        """Count one more request in flight, or refuse it."""
        if number <= 0:
            raise MalformedMessage(f"a request with number {number}")
        if self._in_flight >= KV_IN_FLIGHT_MAX:
            message = (
                f"{KV_IN_FLIGHT_MAX} requests of this connection wait for their answers: "
                "nothing was done, wait for one"
            )
            self._send(Failure(number, FailureCode.UNAVAILABLE, message))
            return False
        self._in_flight += 1
        return True

    def _refuse(self, reason: str) -> None:
        if self._transport is not None:
            self._server.refused(reason)
            self._transport.write(encode_frame(Failure(0, FailureCode.REFUSED, reason)))
            self._transport.close()

    def _cancel_timeout(self) -> None:
        if self._greeting_timeout is not None:
            self._greeting_timeout.cancel()
            self._greeting_timeout = None


def _timeout_s(timeout_ms: int) -> float:
    return min(max(timeout_ms, 1) / 1000, REQUEST_TIMEOUT_S_MAX)
