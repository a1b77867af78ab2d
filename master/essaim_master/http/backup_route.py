"""`GET /essaim/cluster/backup`: the whole state as a file that carries its own hash.

The bytes are those of a snapshot file (`snapshot.format`), made piece by piece in a thread while
they are sent: neither the event loop nor the memory holds the encoded state. A client that gets
no footer got no backup; `python -m essaim_master.tools check FILE` tells.
"""

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from essaim_master.http.api import Api
from essaim_shared.errors import NotSupported


class BackupRoute:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> list[Route]:
        return [Route("/essaim/cluster/backup", self.backup, methods=["GET"])]

    async def backup(self, request: Request) -> Response:
        """Any master answers, with all that was acknowledged before it was asked."""
        inside = self._api.inside
        if inside is None:
            raise NotSupported("this master runs alone in memory: it has no Raft log")
        await self._api.read_barrier(request)
        return StreamingResponse(inside.node.backup(), media_type="application/octet-stream")
