"""`/swarm`: the cluster as a whole, its join tokens, and what `docker swarm` can change of it: how
many ended tasks are kept of each slot, the tokens (`join-token --rotate`), and the authority
(`ca --rotate`, which asks with a greater `CAConfig.ForceRotate`).

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
from essaim_master.http.authority_routes import desk_of
from essaim_master.http.caller import caller_of
from essaim_master.http.docker_objects import (
    NANOSECONDS_PER_SECOND,
    DataPath,
    SwarmAuthority,
    cluster_object,
)
from essaim_master.http.json_edge import decode_object, field_of, says_nothing
from essaim_master.http.swarm_trust import is_rotating, rotations_begun, swarm_tls
from essaim_master.state.keys import (
    CLUSTER_KEY,
    JOIN_SECRETS_KEY,
    SETTINGS_KEY,
    TRUST_ANCHORS_KEY,
)
from essaim_master.state.writes import Writes
from essaim_shared.errors import InvalidRequest, NotSupported, Unavailable, VersionConflict
from essaim_shared.trust.roles import Role

NO_TOKEN = "no-token-needed:start-essaim-agent-on-the-machine-instead"
"""`docker swarm join-token` prints it in the place of one, in a cluster without an authority."""
HIDDEN_TOKEN = "shown-to-admins-only"

TASK_HISTORY_MAX = 100
"""Of each slot: every ended task takes room in the state of all masters."""

_HISTORY_LIMIT = "Orchestration.TaskHistoryRetentionLimit"
_FORCE_ROTATE = "CAConfig.ForceRotate"

_REASONS = {
    "Name": "modification of cluster name is not allowed",
    "Labels": "Essaim keeps no labels of the cluster: label its nodes or services",
    "Raft": "the consensus is set in the configuration of the masters",
    "Dispatcher": "heartbeats are set in the configuration of the masters and agents",
    "CAConfig": "the masters make the authority themselves, with lives of certificates as "
    "authority.certificate_lifetime_s in their configuration says",
    "EncryptionConfig": "Essaim's masters have no lock: encrypt the disk that they write to",
    "TaskDefaults": "give each service its log driver",
}
"""By the first part of a field's path."""

_TOKEN_ROTATIONS = {"rotateWorkerToken": Role.AGENT, "rotateManagerToken": Role.MASTER}
_UNLOCK_ROTATION = "rotateManagerUnlockKey"


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
        return json_response({**docker, "JoinTokens": self._tokens(request)})

    def _tokens(self, request: Request) -> dict[str, str]:
        """Whoever has one lets machines in: users who may only look are not shown any."""
        desk = self._api.authority
        if desk is None:
            return {"Worker": NO_TOKEN, "Manager": NO_TOKEN}
        if caller_of(request).role != "admin":
            return {"Worker": HIDDEN_TOKEN, "Manager": HIDDEN_TOKEN}
        tokens = desk.tokens()
        return {"Worker": tokens[Role.AGENT].text, "Manager": tokens[Role.MASTER].text}

    async def update(self, request: Request) -> Response:
        version = version_of(request, "swarm")
        fields = decode_object(await read_body(request), "swarm spec")
        if flag_of(request, _UNLOCK_ROTATION):
            raise NotSupported(
                f"{_UNLOCK_ROTATION} is not supported: {_REASONS['EncryptionConfig']}"
            )
        roles = {role for name, role in _TOKEN_ROTATIONS.items() if flag_of(request, name)}
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
        if roles:
            await desk_of(self._api).rotate_tokens(frozenset(roles))
        if self._asks_for_rotation(fields):
            await desk_of(self._api).rotate_authority()
        return Response(status_code=200)

    def _asks_for_rotation(self, fields: Mapping[str, Any]) -> bool:
        """Raises InvalidRequest."""
        wanted = next((value for path, value in _leaves(fields) if path == _FORCE_ROTATE), 0)
        if not isinstance(wanted, int) or isinstance(wanted, bool):
            raise InvalidRequest(f"invalid {_FORCE_ROTATE} {wanted}: it is a number")
        anchors = self._api.state.trust_anchors
        begun = 0 if anchors is None else rotations_begun(anchors)
        return wanted > begun


def swarm_object(api: Api) -> dict[str, Any] | None:
    """The swarm without its join tokens; None before a leader has named the cluster."""
    state = api.state
    if state.cluster is None:
        return None
    parts = (CLUSTER_KEY, SETTINGS_KEY, TRUST_ANCHORS_KEY, JOIN_SECRETS_KEY)
    version = max(state.modified(key) for key in parts)
    pools, udp_port = api.networks.pools, api.networks.udp_port
    data_path = DataPath(pools.subnets, pools.prefix_length, udp_port)
    return cluster_object(state.cluster, state.settings, version, data_path, _authority(api))


def _authority(api: Api) -> SwarmAuthority:
    anchors = api.state.trust_anchors
    if anchors is None or api.authority is None:
        return SwarmAuthority()
    config = {"NodeCertExpiry": api.authority.certificate_lifetime_s * NANOSECONDS_PER_SECOND}
    if begun := rotations_begun(anchors):
        config["ForceRotate"] = begun
    return SwarmAuthority(config, swarm_tls(anchors), is_rotating(anchors))


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
        if path in (_HISTORY_LIMIT, _FORCE_ROTATE):
            continue
        if says_nothing(value) or value == _at(present, path):
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


_SPELLING = {
    name.casefold(): name for name in (*_REASONS, *_HISTORY_LIMIT.split("."), "ForceRotate")
}
"""Go's clients and others write keys in any case."""
