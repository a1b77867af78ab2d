"""A pipelined client of etcd's own gRPC interface, as cheap as it can be made.

Only what a load generator needs of HTTP/2 (RFC 9113) and gRPC is here: unary calls whose headers
never change, so that they are encoded once. It costs far less CPU a request than a real client:
on a machine that the generator shares with the servers that favours etcd.
"""

import asyncio
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
WINDOW_DEFAULT = 65_535
WINDOW_MAX = 2**31 - 1
FRAME_BYTES_MAX = 16_384
INITIAL_WINDOW_SIZE = 4


class EtcdRefused(Exception):
    """A call ended without an answer: the cluster has no leader, or the connection was lost."""


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def _header(name: bytes, value: bytes) -> bytes:
    """Literal, never put into a table (RFC 7541, 6.2.2): both are shorter than 127 bytes."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


def _call_headers(method: bytes, authority: bytes) -> bytes:
    return b"".join(
        _header(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/etcdserverpb.KV/" + method),
            (b":authority", authority),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        )
    )


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(tag: int, value: bytes) -> bytes:
    return bytes((tag << 3 | 2,)) + _varint(len(value)) + value


class EtcdClient(asyncio.Protocol):
    """One connection to one member."""

    def __init__(self, host: str, port: int) -> None:
        authority = f"{host}:{port}".encode()
        self._address = (host, port)
        self._put_headers = _call_headers(b"Put", authority)
        self._range_headers = _call_headers(b"Range", authority)
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._next_stream = 1
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._answers: dict[int, bytes] = {}
        self._send_window = WINDOW_DEFAULT
        self._receive_left = WINDOW_MAX
        self._waiting: list[tuple[bytes, bytes, asyncio.Future[bytes]]] = []
        self._is_flush_scheduled = False
        self._lost = asyncio.Event()
        self._settings = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, *self._address)
        await self._settings

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            await self._lost.wait()

    def put(self, key: bytes, value: bytes) -> "asyncio.Future[bytes]":
        return self._call(self._put_headers, _field(1, key) + _field(2, value))

    def get(self, key: bytes) -> "asyncio.Future[bytes]":
        """Linearizable: etcd's default."""
        return self._call(self._range_headers, _field(1, key))

    def _call(self, headers: bytes, message: bytes) -> "asyncio.Future[bytes]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        if self._transport is None:
            future.set_exception(EtcdRefused("not connected"))
            return future
        body = b"\x00" + struct.pack(">I", len(message)) + message
        self._waiting.append((headers, body, future))
        if not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._is_flush_scheduled = False
        frames = []
        sent = 0
        for headers, body, future in self._waiting:
            if len(body) > self._send_window:
                break
            sent += 1
            self._send_window -= len(body)
            stream = self._next_stream
            self._next_stream += 2
            self._calls[stream] = future
            frames.append(_frame(HEADERS, END_HEADERS, stream, headers))
            frames.append(_frame(DATA, END_STREAM, stream, body))
        del self._waiting[:sent]
        if frames and self._transport is not None:
            self._transport.write(b"".join(frames))

    def connection_made(self, transport) -> None:
        self._transport = transport
        window = _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_MAX - WINDOW_DEFAULT))
        transport.write(PREFACE + _frame(SETTINGS, 0, 0, b"") + window)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost.set()
        waiting = [future for _, _, future in self._waiting]
        for future in [self._settings, *self._calls.values(), *waiting]:
            if not future.done():
                future.set_exception(EtcdRefused("the connection was lost"))
                future.exception()
        self._calls.clear()
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        offset, size = 0, len(data)
        while size - offset >= 9:
            length = int.from_bytes(data[offset : offset + 3], "big")
            end = offset + 9 + length
            if end > size:
                break
            kind, flags = data[offset + 3], data[offset + 4]
            stream = int.from_bytes(data[offset + 5 : offset + 9], "big")
            self._received(kind, flags, stream, data[offset + 9 : end])
            offset = end
        self._rest = data[offset:]
        if self._waiting:
            self._flush()

    def _received(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        if kind == DATA:
            self._answers[stream] = self._answers.get(stream, b"") + body
            self._receive_left -= len(body)
            if self._receive_left < WINDOW_MAX // 2:
                refill = struct.pack(">I", WINDOW_MAX - self._receive_left)
                self._receive_left = WINDOW_MAX
                transport.write(_frame(WINDOW_UPDATE, 0, 0, refill))
        elif kind == SETTINGS and not flags & ACK:
            transport.write(_frame(SETTINGS, ACK, 0, b""))
            if not self._settings.done():
                self._settings.set_result(None)
        elif kind == PING and not flags & ACK:
            transport.write(_frame(PING, ACK, 0, body))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._send_window += int.from_bytes(body, "big")
        elif kind == GOAWAY:
            transport.abort()
        if (kind in (HEADERS, DATA) and flags & END_STREAM) or kind == RST_STREAM:
            self._ended(stream)

    def _ended(self, stream: int) -> None:
        future = self._calls.pop(stream, None)
        answer = self._answers.pop(stream, None)
        if future is None or future.done():
            return
        if answer is None:
            future.set_exception(EtcdRefused("the member refused the call"))
        else:
            future.set_result(answer)
