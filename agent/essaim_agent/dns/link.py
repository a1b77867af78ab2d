"""The connection between an agent and its name server, and what both know of the other's place.

    RUN_DIR/dns.lock   locked by the server while it runs; holds its process id
    RUN_DIR/dns.sock   where a later agent finds it
    RUN_DIR/dns.log    what it says, where there is no journal

The sockets on which the tasks are heard are made by the agent and handed over. Each of the two
keeps them when the other dies: while a server is started again, questions wait in them.
"""

import asyncio
import socket
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from essaim_agent.dns import control
from essaim_agent.dns.control import LENGTH_BYTES, FromAgent, FromServer
from essaim_shared import __version__
from essaim_shared.errors import MalformedMessage

LOCK: Final = "dns.lock"
SOCKET: Final = "dns.sock"
LOG: Final = "dns.log"
HELLO_BYTES_MAX: Final = 4096
RECEIVE_BUFFER_BYTES: Final = 1024 * 1024
"""Of the kernel, for questions that arrive while the server does something else."""
TCP_BACKLOG: Final = 128


def build_id() -> str:
    """Differs between two versions of this package, released or not."""
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return f"{__version__}-{zlib.crc32(code):08x}"


def listening_sockets(port: int) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP, on every address of the node: which of them are asked is the packet filter's
    to say, and answers leave by the one that was asked. Raises OSError."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        for each in (udp, tcp):
            each.setblocking(False)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        udp.bind(("0.0.0.0", port))
        tcp.bind(("0.0.0.0", udp.getsockname()[1]))
        tcp.listen(TCP_BACKLOG)
    except OSError:
        udp.close()
        tcp.close()
        raise
    return udp, tcp


def send_hello(connection: socket.socket, hello: control.Hello, sockets: Sequence[int]) -> None:
    """The first message of a new connection; it fits into the empty buffer. Raises OSError."""
    socket.send_fds(connection, [control.encode(hello)], sockets)


async def receive_hello(
    connection: socket.socket,
) -> tuple[control.Hello, tuple[socket.socket, ...]]:
    """The other end of `send_hello`. Raises OSError or MalformedMessage."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)
    data, descriptors, _, _ = socket.recv_fds(connection, HELLO_BYTES_MAX, 2)
    sockets = tuple(socket.socket(fileno=descriptor) for descriptor in descriptors)
    try:
        length = control.length_of(data[:LENGTH_BYTES])
        hello = control.from_server(data[LENGTH_BYTES:])
        if length != len(data) - LENGTH_BYTES or not isinstance(hello, control.Hello):
            raise MalformedMessage("the name server does not begin with a greeting")
    except MalformedMessage:
        for each in sockets:
            each.close()
        raise
    return hello, sockets


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Raises IncompleteReadError at the end, OSError, or MalformedMessage."""
    length = control.length_of(await reader.readexactly(LENGTH_BYTES))
    return await reader.readexactly(length)


async def write(writer: asyncio.StreamWriter, message: FromAgent | FromServer) -> None:
    """Raises OSError."""
    writer.write(control.encode(message))
    await writer.drain()
