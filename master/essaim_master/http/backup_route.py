"""`GET /essaim/cluster/backup[?unencrypted=1]`: the whole state as a file, sealed with the masters'
shared key (`at_rest.backup_file`), or open where that is asked for in so many words.

Inside are the bytes of a snapshot file (`snapshot.format`), made piece by piece in a thread while
they are sent: neither the event loop nor the memory holds the encoded state. A client that gets
no trailer, or of an open one no footer, got no backup; `python -m essaim_master.tools check FILE`
tells.
"""

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from essaim_master.http.api import Api, flag_of
from essaim_shared.errors import NotSupported


class BackupRoute:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> list[Route]:
        return [Route("/essaim/cluster/backup", self.backup, methods=["GET"])]

    async def backup(self, request: Request) -> Response:
        """Any master answers, with all that was acknowledged before it was asked. Raises
        NotSupported when it is to be sealed and this master has no key."""
        inside = self._api.inside
        if inside is None:
            raise NotSupported("this master runs alone in memory: it has no Raft log")
        await self._api.read_barrier(request)
        pieces = inside.node.backup()
        if not flag_of(request, "unencrypted"):
            pieces = inside.backup_seal.sealed(pieces)
        return StreamingResponse(pieces, media_type="application/octet-stream")
