"""`/essaim/…`, what Docker's API has no word for, and `/metrics`.

    GET /essaim/wait?revision=N&timeout=S   {"Revision"}: at once when the state is past N, else on
                                            the next change, or unchanged after S seconds
    GET /essaim/figures                     {"Nodes": {ID: NodeFigures},
                                             "Tasks": {ID: ContainerFigures}}
    GET /essaim/raft                        what this master knows of the consensus
    GET /essaim/leader                      {"MemberID","Term","Addr","HTTPAddr"} of the leader
    GET /metrics                            Prometheus

They answer from this master's own state, without a read barrier: they show what it knows.
"""

import asyncio
from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import Api, json_response, number_of
from essaim_master.http.master_metrics import CONTENT_TYPE, master_metrics
from essaim_master.http.raft_view import raft_object
from essaim_master.state.cluster_state import AppliedChanges
from essaim_shared.errors import NoLeader, Unavailable

WAIT_DEFAULT_S = 30.0
WAIT_MAX_S = 60.0
WAITERS_MAX = 600
"""Below `server.CONNECTIONS_MAX`: those who wait leave room for those who ask."""
REVISION_MAX = float(2**63)


class EssaimRoutes:
    def __init__(
        self, api: Api, watchers: Callable[[], int], refused: Callable[[], Mapping[str, int]]
    ) -> None:
        """`watchers`: how many clients watch keys now; `refused`: how many requests were turned
        away, by the reason."""
        self._api = api
        self._watchers = watchers
        self._refused = refused
        self._waiters: set[asyncio.Future[None]] = set()
        self._unsubscribe = api.state.subscribe(self._on_changes)

    def close(self) -> None:
        self._unsubscribe()
        self._wake()

    def routes(self) -> list[Route]:
        return [
            Route("/essaim/wait", self.wait, methods=["GET"]),
            Route("/essaim/figures", self.figures, methods=["GET"]),
            Route("/essaim/raft", self.raft, methods=["GET"]),
            Route("/essaim/leader", self.leader, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]

    async def wait(self, request: Request) -> Response:
        revision = number_of(request, "revision", 0, 0, REVISION_MAX)
        timeout_s = number_of(request, "timeout", WAIT_DEFAULT_S, 0, WAIT_MAX_S)
        if self._api.state.revision <= revision and timeout_s > 0:
            await self._next_change(request, timeout_s)
        return json_response({"Revision": self._api.state.revision})

    async def figures(self, request: Request) -> Response:
        figures, tasks = self._api.figures, self._api.figures.containers()
        if self._api.seen is not self._api.state:
            seen = self._api.seen.tasks
            tasks = {task_id: one for task_id, one in tasks.items() if task_id in seen}
        return json_response({"Nodes": figures.nodes(), "Tasks": tasks})

    async def raft(self, request: Request) -> Response:
        return json_response(raft_object(self._api.cluster, self._api.inside))

    async def leader(self, request: Request) -> Response:
        view = self._api.cluster.leadership()
        for member in self._api.cluster.members:
            if member.id == view.leader:
                return json_response(
                    {
                        "MemberID": member.id,
                        "Term": view.term,
                        "Addr": member.raft,
                        "HTTPAddr": member.http,
                    }
                )
        raise NoLeader(f"master {view.member_id} knows no leader in term {view.term}: try again")

    async def metrics(self, request: Request) -> Response:
        api = self._api
        text = master_metrics(
            api.state,
            api.cluster.leadership(),
            api.inside,
            self._watchers(),
            self._refused(),
        )
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    async def _next_change(self, request: Request, timeout_s: float) -> None:
        """Return on the next change, when the time is up, or when the client has gone: its place
        among the waiters is free at once."""
        if len(self._waiters) >= WAITERS_MAX:
            raise Unavailable(f"{WAITERS_MAX} clients are waiting already: poll instead")
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(changed)
        timeout = asyncio.ensure_future(self._api.clock.sleep(timeout_s))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({changed, timeout, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timeout.cancel()
            gone.cancel()
            self._waiters.discard(changed)

    def _on_changes(self, applied: AppliedChanges) -> None:
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()


async def _disconnected(request: Request) -> None:
    """A client that waits sends nothing more: the next word from it is that it has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
