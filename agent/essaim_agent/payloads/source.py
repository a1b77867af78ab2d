"""Whom the data of secrets and configs is asked of."""

from typing import Final, Protocol

from essaim_agent.payloads.references import PayloadKey

PAYLOAD_BYTES_MAX: Final = 1000 * 1024
"""Of a config, as in Docker; a secret has at most half of it."""


class PayloadSource(Protocol):
    async def fetch(self, key: PayloadKey, title: str) -> bytes:
        """The data; `title` is what errors call it.

        Raises Temporary when no master answers, Refused when they say that this node has no task
        which uses it. Neither holds any of the data.
        """
        ...
