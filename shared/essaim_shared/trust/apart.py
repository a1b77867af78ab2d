"""What needs the library of certificates, done by a process of its own.

The library stays in memory (12 MB) once imported, and a node renews its certificate every two
months: `python -m essaim_shared.trust.apart request NAME` makes a key and asks for a certificate
for it, `… look FILE` says what the certificate in a file says. Both answer on a pipe that nobody
else reads.
"""

import asyncio
import sys
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from essaim_shared.errors import ConfigError
from essaim_shared.undecodable import UNDECODABLE

PROCESS_TIMEOUT_S: Final = 30.0
"""Of a fraction of a second's work, on a machine that is busy."""

T = TypeVar("T")


class MadeRequest(msgspec.Struct, frozen=True):
    """Its repr shows no key."""

    key_pem: str
    request_pem: str

    def __repr__(self) -> str:
        return "MadeRequest(…)"


class CertificateLook(msgspec.Struct, frozen=True):
    made_ns: int
    """Wall time, in whole seconds."""
    expires_ns: int
    addresses: tuple[str, ...]
    """At which a master is reached."""


async def make_request(name: str) -> MadeRequest:
    """Raises ConfigError when the process fails."""
    return await _ask(MadeRequest, "request", name)


async def look_at(path: Path) -> CertificateLook:
    """Raises ConfigError."""
    return await _ask(CertificateLook, "look", str(path))


async def _ask(kind: type[T], *arguments: str) -> T:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PROCESS_TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError as error:
        raise ConfigError(f"{arguments[0]}: no answer in {PROCESS_TIMEOUT_S:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        last = err.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
        raise ConfigError(f"{arguments[-1]}: {last[0]}")
    try:
        return msgspec.json.decode(out, type=kind)
    except UNDECODABLE:
        raise ConfigError(f"{arguments[0]}: the answer cannot be read") from None


def _main(command: str, argument: str) -> None:
    from essaim_shared.trust.certificates import (
        BACKDATED_S,
        addresses_of,
        facts_of,
        new_request,
    )

    if command == "request":
        asked = new_request(argument)
        made = MadeRequest(asked.key_pem.decode(), asked.request_pem.decode())
        sys.stdout.buffer.write(msgspec.json.encode(made))
        return
    content = Path(argument).read_bytes()
    facts = facts_of(content)
    look = CertificateLook(
        made_ns=facts.not_before_ns + BACKDATED_S * 1_000_000_000,
        expires_ns=facts.not_after_ns,
        addresses=addresses_of(content),
    )
    sys.stdout.buffer.write(msgspec.json.encode(look))


if __name__ == "__main__":
    _main(*sys.argv[1:])
