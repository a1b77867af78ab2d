"""A name server of the world outside, on loopback addresses, that does as it is told."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import dnslib

ADDRESS = "198.51.100.7"
"""What every name means there."""


class Upstream:
    """`manner` is how it answers: well, slowly, wrongly, or not at all."""

    def __init__(self) -> None:
        self.manner = "well"
        self.port = 0
        self.heard: list[str] = []
        """`udp example.com`, in the order of asking."""
        self.ids: list[int] = []
        self.sources: list[int] = []
        """The ports from which was asked."""

    def reply(self, data: bytes, protocol: str) -> list[bytes]:
        question = dnslib.DNSRecord.parse(data)
        self.heard.append(f"{protocol} {str(question.q.qname).rstrip('.')}")
        self.ids.append(question.header.id)
        answer = question.reply()
        records = 60 if self.manner == "long" else 1
        for _ in range(records):
            answer.add_answer(
                dnslib.RR(question.q.qname, dnslib.QTYPE.A, ttl=60, rdata=dnslib.A(ADDRESS))
            )
        match self.manner:
            case "silent":
                return []
            case "failing":
                answer = question.reply()
                answer.header.rcode = dnslib.RCODE.SERVFAIL
            case "missing":
                answer = question.reply()
                answer.header.rcode = dnslib.RCODE.NXDOMAIN
            case "long" if protocol == "udp":
                answer = question.reply()
                answer.header.tc = 1
            case "forged":
                # Who did not see the question guesses: the id, the name, or that it is no answer.
                wrong_id, wrong_name = question.reply(), dnslib.DNSRecord.question("evil.example")
                wrong_id.header.id ^= 1
                wrong_name.header.id, wrong_name.header.qr = question.header.id, 1
                forged = [wrong_id, wrong_name, question]
                return [
                    b"",
                    b"\0" * 5,
                    *(bytes(each.pack()) for each in forged),
                    bytes(answer.pack()),
                ]
        return [bytes(answer.pack())]


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        self._upstream.sources.append(addr[1])
        for answer in self._upstream.reply(data, "udp"):
            self._transport.sendto(answer, addr)


@asynccontextmanager
async def upstream(address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Upstream]:
    """Listens on UDP and TCP, on the same port."""
    made = Upstream()
    loop = asyncio.get_running_loop()
    with socket.create_server((address, port)) as tcp:
        made.port = tcp.getsockname()[1]

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            length = int.from_bytes(await reader.readexactly(2), "big")
            for answer in made.reply(await reader.readexactly(length), "tcp"):
                writer.write(len(answer).to_bytes(2, "big") + answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, sock=tcp)
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Protocol(made), local_addr=(address, made.port)
        )
        try:
            yield made
        finally:
            transport.close()
            server.close()
            await server.wait_closed()
