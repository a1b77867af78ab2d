"""`/swarm`: the cluster as a whole, and the one setting of it that `docker swarm update` can
change: how many ended tasks are kept of each slot.

Everything else that a swarm's spec holds is settled elsewhere in Essaim. A client writes back the
whole spec that it read, so only what differs from that is refused.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import Api, flag_of, json_response, read_body, version_of
from essaim_master.http.docker_objects import DataPath, cluster_object
from essaim_master.http.json_edge import decode_object, field_of, says_nothing
from essaim_master.state.keys import CLUSTER_KEY, SETTINGS_KEY
from essaim_master.state.writes import Writes
from essaim_shared.errors import InvalidRequest, NotSupported, Unavailable, VersionConflict

NO_TOKEN = "no-token-needed:start-essaim-agent-on-the-machine-instead"
"""`docker swarm join-token` prints it in the place of one."""

TASK_HISTORY_MAX = 100
"""Of each slot: every ended task takes room in the state of all masters."""

_HISTORY_LIMIT = "Orchestration.TaskHistoryRetentionLimit"

_REASONS = {
    "Name": "modification of cluster name is not allowed",
    "Labels": "Essaim keeps no labels of the cluster: label its nodes or services",
    "Raft": "the consensus is set in the configuration of the masters",
    "Dispatcher": "heartbeats are set in the configuration of the masters and agents",
    "CAConfig": "Essaim's masters do not issue certificates",
    "EncryptionConfig": "Essaim's masters have no lock: encrypt the disk that they write to",
    "TaskDefaults": "give each service its log driver",
}
"""By the first part of a field's path."""

_ROTATIONS = ("rotateWorkerToken", "rotateManagerToken", "rotateManagerUnlockKey")


class SwarmRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> list[Route]:
        return [
            Route("/swarm", self.inspect, methods=["GET"]),
            Route("/swarm/update", self.update, methods=["POST"]),
        ]

    async def inspect(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        docker = _found(swarm_object(self._api))
        return json_response({**docker, "JoinTokens": {"Worker": NO_TOKEN, "Manager": NO_TOKEN}})

    async def update(self, request: Request) -> Response:
        version = version_of(request, "swarm")
        fields = decode_object(await read_body(request), "swarm spec")
        for rotation in _ROTATIONS:
            if flag_of(request, rotation):
                raise NotSupported(
                    f"{rotation} is not supported: Essaim has no join tokens and no unlock key"
                )
        await self._api.catch_up()
        swarm = _found(swarm_object(self._api))
        if swarm["Version"]["Index"] != version:
            raise VersionConflict
        refuse_other_changes(fields, swarm["Spec"])
        limit = history_limit(fields)
        state = self._api.state
        if limit is not None and limit != state.settings.task_history_limit:
            writes = Writes()
            writes.expect(SETTINGS_KEY, state.modified(SETTINGS_KEY))
            writes.put(msgspec.structs.replace(state.settings, task_history_limit=limit))
            if not await self._api.commit(writes):
                raise VersionConflict
        return Response(status_code=200)


def swarm_object(api: Api) -> dict[str, Any] | None:
    """The swarm without its join tokens; None before a leader has named the cluster."""
    state = api.state
    if state.cluster is None:
        return None
    version = max(state.modified(CLUSTER_KEY), state.modified(SETTINGS_KEY))
    pools, udp_port = api.networks.pools, api.networks.udp_port
    data_path = DataPath(pools.subnets, pools.prefix_length, udp_port)
    return cluster_object(state.cluster, state.settings, version, data_path)


def _found(swarm: dict[str, Any] | None) -> dict[str, Any]:
    if swarm is None:
        raise Unavailable("the cluster has no leader yet that could name it: try again in a second")
    return swarm


def history_limit(fields: Mapping[str, Any]) -> int | None:
    """What the request asks for; None when it does not. Raises InvalidRequest."""
    limit = next((value for path, value in _leaves(fields) if path == _HISTORY_LIMIT), None)
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit <= TASK_HISTORY_MAX:
        raise InvalidRequest(
            f"invalid {_HISTORY_LIMIT} {limit}: it is a number from 0 to {TASK_HISTORY_MAX}"
        )
    return limit


def refuse_other_changes(fields: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Raises NotSupported for a value that says something else than what clients are shown."""
    for path, value in _leaves(fields):
        if path == _HISTORY_LIMIT or says_nothing(value) or value == _at(present, path):
            continue
        reason = _REASONS.get(path.partition(".")[0], "Essaim has no such setting")
        raise NotSupported(f'"{path}" cannot be changed: {reason}')


def _leaves(fields: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """What a spec holds, by full names spelled as they are in the spec that is shown."""
    for key, value in fields.items():
        name = _SPELLING.get(key.casefold(), key)
        if isinstance(value, Mapping) and name != "Labels":
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _at(fields: Mapping[str, Any], path: str) -> Any:
    value: Any = fields
    for name in path.split("."):
        value = field_of(value, name) if isinstance(value, Mapping) else None
    return value


_SPELLING = {name.casefold(): name for name in (*_REASONS, *_HISTORY_LIMIT.split("."))}
"""Go's clients and others write keys in any case."""
