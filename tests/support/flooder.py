"""A process that floods the bus with a node's credential until it is cut off.

Arguments: URL of the server, identity directory, subject, payload size in bytes. Prints a line
when it begins, and one when its connection has ended.
"""

import asyncio
import sys
from pathlib import Path

from support.raw_bus_client import RawBusClient

from essaim_shared.bus_login import bus_login
from essaim_shared.trust.tls import Tls

BATCH_BYTES = 256 * 1024


async def flood(url: str, directory: str, subject: str, size_bytes: int) -> None:
    login = bus_login(directory, Tls(Path(directory)))
    assert login is not None
    client = await RawBusClient.open(url, login)
    message = f"PUB {subject} {size_bytes}\r\n".encode() + b"x" * size_bytes + b"\r\n"
    batch = message * max(1, BATCH_BYTES // len(message))
    print("flooding", flush=True)
    try:
        while True:
            client.write(batch)
            await client.drain()
    except OSError as error:
        print(f"cut off: {error}", flush=True)
    client.close()


if __name__ == "__main__":
    asyncio.run(flood(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
