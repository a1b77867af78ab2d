"""`/_ping`, `/version`, `/info`."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import Api, json_response
from essaim_master.http.api_version import API_VERSION, API_VERSION_MIN, server_version
from essaim_master.http.swarm import swarm_object
from essaim_master.state.manager_nodes import host_of
from essaim_shared.clock import rfc3339
from essaim_shared.ids import NodeId

PING_HEADERS = {
    "Swarm": "active/manager",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
}

ENGINE_ABILITIES = (
    "BridgeNfIp6tables",
    "BridgeNfIptables",
    "CPUSet",
    "CPUShares",
    "CpuCfsPeriod",
    "CpuCfsQuota",
    "IPv4Forwarding",
    "MemoryLimit",
    "OomKillDisable",
    "SwapLimit",
)
"""Where one is false `docker info` warns. They are matters of the nodes' engines, not of a master,
and a node without them says so by its tasks."""


class SystemRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> list[Route]:
        return [
            Route("/_ping", self.ping, methods=["GET"]),
            Route("/version", self.version, methods=["GET"]),
            Route("/info", self.info, methods=["GET"]),
        ]

    async def ping(self, request: Request) -> Response:
        """Answered without a quorum: clients ask it to see that the master lives. Starlette
        adds HEAD to GET."""
        return Response(b"OK", media_type="text/plain", headers=PING_HEADERS)

    async def version(self, request: Request) -> Response:
        facts = self._api.facts
        return json_response(
            {
                "Platform": {"Name": "Essaim"},
                "Components": [
                    {
                        "Name": "Essaim",
                        "Version": server_version(),
                        "Details": {
                            "ApiVersion": API_VERSION,
                            "MinAPIVersion": API_VERSION_MIN,
                            "Os": "linux",
                            "Arch": facts.architecture,
                            "KernelVersion": facts.kernel_version,
                        },
                    }
                ],
                "Version": server_version(),
                "ApiVersion": API_VERSION,
                "MinAPIVersion": API_VERSION_MIN,
                "Os": "linux",
                "Arch": facts.architecture,
                "KernelVersion": facts.kernel_version,
            }
        )

    async def info(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        facts = self._api.facts
        return json_response(
            {
                "ID": self._api.cluster.member_id,
                "Name": facts.hostname,
                "ServerVersion": server_version(),
                "OperatingSystem": "Essaim",
                "OSType": "linux",
                "Architecture": facts.machine,
                "KernelVersion": facts.kernel_version,
                "NCPU": facts.cpu_count,
                "MemTotal": facts.memory_bytes,
                "SystemTime": rfc3339(self._api.clock.wall_ns()),
                "Containers": 0,
                "Images": 0,
                "Driver": "none",
                "Plugins": {"Volume": [], "Network": ["overlay", "host"], "Authorization": None},
                "SecurityOptions": [],
                "Warnings": None,
                "Labels": [],
                "ExperimentalBuild": False,
                **dict.fromkeys(ENGINE_ABILITIES, True),
                "Swarm": self._swarm_info(),
            }
        )

    def _swarm_info(self) -> dict[str, Any]:
        """`NodeID` is the node on this master's host: docker marks it in `node ls`."""
        cluster = self._api.cluster
        managers = self._api.manager_statuses()
        # A master that stands by is not among the members, and its address not known here.
        own = next((m.raft for m in cluster.members if m.id == cluster.member_id), "")
        node_ids = {manager.address: node_id for node_id, manager in managers.items()}
        swarm: dict[str, Any] = {
            "NodeID": node_ids.get(own, NodeId("")),
            "NodeAddr": host_of(own),
            "LocalNodeState": "active",
            "ControlAvailable": True,
            "Error": "",
            "RemoteManagers": [
                {"NodeID": node_ids.get(member.raft, NodeId("")), "Addr": member.raft}
                for member in cluster.members
            ],
            "Nodes": len(self._api.state.nodes),
            "Managers": len(cluster.members),
        }
        swarm["Cluster"] = swarm_object(self._api) or {"ID": ""}
        return swarm
