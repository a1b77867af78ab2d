"""One connection to one bus server. With `nats_transport` the only file that imports `nats`."""

import asyncio
import logging
import ssl
from typing import Final

import nats.errors
from nats.aio.client import PING_PROTO, Client
from nats.aio.transport import TcpTransport

from essaim_shared.bus_login import BusLogin
from essaim_shared.log import fields
from essaim_shared.trust.tls import HANDSHAKE_TIMEOUT_S, MASTER_NAME, reason_in_words

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 1.0
"""For the TCP connection, and again for the server's first line: a stopped server accepts the one
and never sends the other."""

PENDING_SOFT_BYTES_MAX: Final = 2 * 1024 * 1024
"""With more than this unsent a publisher waits for the socket, at most PENDING_WAIT_S."""
PENDING_WAIT_S: Final = 1.0

_NATS_PY_PING_INTERVAL_S: Final = 86_400
"""In effect never: nats-py's own ping ends a connection by ways that can wait for ever."""

CONNECTION_ERRORS: Final = (nats.errors.Error, OSError, TimeoutError)

_REFUSED: Final = "authorization violation"
_BROKEN_OFF: Final = (
    "it broke off after the handshake: our certificate may have expired, or be another cluster's"
)
"""Its verdict gets lost when its end of the connection is gone before our first words arrive."""
_FORBIDDEN: Final = "permissions violation"


class _TlsProtocol(asyncio.StreamReaderProtocol):
    def eof_received(self) -> bool:
        super().eof_received()
        return False  # with TLS nothing can be sent after the other side has ended


class _Wire(TcpTransport):
    """nats-py's, which begins in the clear and goes over to TLS."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __bool__(self) -> bool:
        return True  # else nats-py puts one of its own in its place

    async def connect_tls(
        self,
        uri: object,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: float,
    ) -> None:
        # A reader of its own: what came in the clear after the first line is not read. And more
        # time than for that line, which has told that the server is not stopped: one to which a
        # thousand clients come at once is slow.
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=buffer_size)
        protocol = _TlsProtocol(reader)
        assert self._io_writer is not None
        transport = await loop.start_tls(
            self._io_writer.transport,
            protocol,
            ssl_context,
            server_hostname=str(uri),
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
        )
        if transport is None:
            raise ConnectionResetError("it broke off the handshake")
        self._io_reader = reader
        self._io_writer = asyncio.StreamWriter(transport, protocol, reader, loop)

    async def read(self, buffer_size: int) -> bytes:
        data: bytes = await super().read(buffer_size)
        if len(data) == buffer_size:
            # There is more, which is read without a wait: a thousand small messages are enough
            # for one turn of the event loop, whoever floods us.
            await asyncio.sleep(0)
        return data

    @property
    def is_secret(self) -> bool:
        writer = self._io_writer
        return writer is not None and writer.get_extra_info("ssl_object") is not None


class Connection(Client):
    """A nats-py client that reports its loss, once, and leaves everything else to the transport.

    It overrides the private methods in which nats-py decides what to do about a lost or refused
    connection, and those of its ping; `abandon` takes apart what `Client._close` would wait for.
    The contract tests with stopped and killed servers watch over them.
    """

    def __init__(self, server: str, login: BusLogin | None) -> None:
        super().__init__()
        self.server = server
        self._login = login
        self._wire = _Wire()
        self._transport = self._wire
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Resolved with the reason."""
        self.dropped_count = 0
        self.forbidden_count = 0
        """Subjects that the server refused to this client."""

    async def open(self, client_name: str) -> None:
        try:
            await self._log_in(client_name)
        except ConnectionError as error:
            if self._wire.is_secret:
                raise nats.errors.Error(_BROKEN_OFF) from error
            raise
        if not self.is_connected:
            raise nats.errors.Error(
                _BROKEN_OFF
                if self._wire.is_secret
                else "the server answered the handshake with something else"
            )

    async def _log_in(self, client_name: str) -> None:
        login = self._login
        await self.connect(
            servers=[self.server],
            name=client_name,
            error_cb=self._note_error,
            allow_reconnect=False,
            connect_timeout=CONNECT_TIMEOUT_S,  # type: ignore[arg-type]  # a float does
            ping_interval=_NATS_PY_PING_INTERVAL_S,
            dont_randomize=True,
            pending_size=PENDING_SOFT_BYTES_MAX,
            flush_timeout=PENDING_WAIT_S,
            skip_subject_validation=True,  # the transport has done it
            tls=None if login is None else login.tls(),
            tls_hostname=None if login is None else MASTER_NAME,
            nkeys_seed_str=None if login is None else login.seed,
        )

    def lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

    def abandon(self) -> None:
        """Let go without a word to the server, which may be stopped: nothing here waits."""
        self.lose("abandoned")
        self._status = Client.CLOSED
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()
        for subscription in self._subs.values():
            if subscription._wait_for_msgs_task is not None:
                subscription._wait_for_msgs_task.cancel()
        self._subs.clear()
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    def _connect_command(self) -> bytes:
        # nats-py believes the server's first line, which anybody on the way may have changed, on
        # whether there is to be TLS.
        if self._login is not None and not self._wire.is_secret:
            raise nats.errors.Error("it does not speak TLS, so it is no server of this cluster")
        return super()._connect_command()

    async def _note_error(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            self.dropped_count += 1
        elif self._status in (Client.DISCONNECTED, Client.CONNECTING):
            # Raised on purpose: nats-py would try the same address again for ever.
            raise error
        else:
            _log.debug("the bus client reports %s", fields(server=self.server, error=repr(error)))

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # nats-py writes a ping past the commands that still wait for its flusher, so that the
        # answer would not mean that the server has read them.
        self._pongs.append(asyncio.get_running_loop().create_future() if future is None else future)
        await self._send_command(PING_PROTO)
        await self._flush_pending()

    async def _process_pong(self) -> None:
        # A caller that gave up left a cancelled future; resolving that would raise, and end
        # nats-py's reading without a word.
        if self._pongs and self._pongs[0].cancelled():
            self._pongs.pop(0)
        else:
            await super()._process_pong()

    async def _process_op_err(self, e: Exception) -> None:
        self.lose(in_words(e))

    async def _process_err(self, err_msg: str) -> None:
        text = err_msg.strip("' \r\n")
        if _FORBIDDEN in text.lower():
            # The connection stays, only this subject is refused.
            self.forbidden_count += 1
            _log.error("the bus server refuses %s", fields(server=self.server, error=text))
        else:
            self.lose(in_words(nats.errors.Error(text)))


def is_refusal(error: Exception) -> bool:
    """Whether the server knows who we are, and lets us in no more or not yet."""
    return _REFUSED in str(error).lower()


def in_words(error: Exception) -> str:
    """Why a server was not reached, or was lost, for people."""
    if isinstance(error, ssl.SSLError):
        return reason_in_words(error)
    text = str(error) or type(error).__name__
    if is_refusal(error):
        return (
            "it does not accept our key: this process was removed from the cluster, or suspended "
            "(essaim node ls), or has just joined"
        )
    return text
