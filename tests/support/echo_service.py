"""A service that says who asked and who answers, fast enough for thousands of connections a second.

The lab's image has no interpreter, so the machine's own is mounted into the container: what the
tests measure is the network, and a server that forks for each connection would be measured instead.
"""

PORT = 8080

SERVER = """
import asyncio, os, signal, socket

NAME = os.environ.get("SAYS") or socket.gethostname()

class Said(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        peer = self.transport.get_extra_info("peername")
        if data.startswith(b"hold"):
            return
        self.transport.write(f"{NAME} {peer[0]}\\n".encode())
        self.transport.close()

class SaidOverUdp(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, peer):
        self.transport.sendto(f"{NAME} {peer[0]}\\n".encode(), peer)

async def main():
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await loop.create_datagram_endpoint(SaidOverUdp, local_addr=("0.0.0.0", 8080))
    server = await loop.create_server(Said, "0.0.0.0", 8080, backlog=4096)
    await ended.wait()
    server.close()

asyncio.run(main())
"""
"""Answers `NAME ADDRESS` on TCP and UDP: its own host name (or SAYS of its environment) and the
address that the question came from. A TCP client that says `hold` is kept waiting."""

CREATE_FLAGS = (
    "--mount",
    "type=bind,source=/usr,target=/usr,readonly",
    "--mount",
    "type=bind,source=/lib,target=/lib,readonly",
    "--mount",
    "type=bind,source=/lib64,target=/lib64,readonly",
    "--startup",
    f"tcp:{PORT},period=1s,failures=20",
)
"""Of `service create`. A task runs once it listens: an interpreter takes a while until then."""

COMMAND = ("/usr/bin/python3", "-I", "-c", SERVER)
"""What stands behind the image."""

CLIENT = """
import socket, sys
kind, host, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for _ in range(count):
    try:
        with socket.socket(socket.AF_INET, getattr(socket, "SOCK_" + kind)) as client:
            client.settimeout(3)
            client.connect((host, port))
            client.send(b"who")
            print(client.recv(200).decode().strip())
    except OSError as error:
        print("failed", type(error).__name__, error.errno)
"""
"""Asks so many times, one line for each answer or failure. Arguments: STREAM or DGRAM, host, port,
count."""
