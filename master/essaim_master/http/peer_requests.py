"""One master asks another over HTTP: status, hashes, and what only the leader may do.

A connection for each question (`essaim_shared.http_call`): these are rare. With an identity of its
own a master shows its certificate, and believes none but a master of its cluster. What it asks for
somebody is asked in his name, and judged there as his.
"""

from typing import Protocol

from essaim_master.http.acting import acting
from essaim_master.http.authentication import BEHALF_HEADER, encode_behalf
from essaim_shared.http_call import Answer, call
from essaim_shared.trust.tls import Tls

FORWARDED_HEADER = "Essaim-Forwarded"
"""How often a request was handed on between masters, so that it does not go in circles."""


class AskMaster(Protocol):
    """`PeerRequests.ask`."""

    async def __call__(
        self,
        address: str,
        method: str,
        target: str,
        *,
        hops: int,
        timeout_s: float,
        body: bytes = b"",
    ) -> Answer: ...


class PeerRequests:
    def __init__(self, tls: Tls | None) -> None:
        self._tls = tls

    async def ask(
        self,
        address: str,
        method: str,
        target: str,
        *,
        hops: int,
        timeout_s: float,
        body: bytes = b"",
    ) -> Answer:
        """Raises as `http_call.call`."""
        return await call(
            address,
            method,
            target,
            timeout_s=timeout_s,
            body=body,
            headers={FORWARDED_HEADER: str(hops), **_behalf()},
            tls=None if self._tls is None else self._tls.client,
        )


def _behalf() -> dict[str, str]:
    one = acting()
    return {} if one is None else {BEHALF_HEADER: encode_behalf(one.caller).decode("ascii")}
