"""The secrets and configs of a stack: what is missing is made, what has other data gets it as
a newer number, and all of them go with the stack."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from essaim_master.http.api import Api
from essaim_master.http.payload_commits import PayloadCommits
from essaim_master.http.payload_requests import WantedPayload
from essaim_master.http.scope import STACK_LABEL
from essaim_master.http.stack_requests import naming
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.errors import PayloadInUse
from essaim_master.state.keys import payload_key
from essaim_master.state.payload_data import payload_named
from essaim_shared.errors import Conflict, NotFound
from essaim_shared.payload_objects import PAYLOAD_KINDS, Config, Payload, PayloadKind, Secret

Action = Literal["created", "updated", "unchanged", "removed"]


@dataclass(slots=True)
class PayloadPlan:
    """One secret or config of the request, checked."""

    wanted: WantedPayload
    present: Payload | None
    planned: Payload
    """As it will be: what the services of the stack can refer to."""


class StackPayloads:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._commits = PayloadCommits(api)

    def plan(self, stack: str, wanted: Sequence[WantedPayload]) -> list[PayloadPlan]:
        """Raises Conflict, NotSupported, SealError for the first that cannot be; writes nothing."""
        plans = [self._plan_one(stack, one) for one in wanted]
        new = [plan for plan in plans if plan.planned != plan.present]
        for kind in PAYLOAD_KINDS:
            made = [one for one in new if one.wanted.kind == kind and one.present is None]
            self._commits.check_count(kind, len(made))
        self._commits.check_room(sum(len(plan.wanted.data) for plan in new))
        return plans

    def _plan_one(self, stack: str, wanted: WantedPayload) -> PayloadPlan:
        kind, now_ns = wanted.kind, self._api.clock.wall_ns()
        with naming(kind, {"Name": wanted.name}):
            self._commits.check_can_keep(kind)
            present = payload_named(self._api.state, kind, wanted.name)
            if present is None:
                made = (Secret if kind == "secret" else Config)(
                    id=self._commits.new_id(),
                    name=wanted.name,
                    labels=wanted.labels,
                    created_ns=now_ns,
                    updated_ns=now_ns,
                )
                return PayloadPlan(wanted, None, made)
            if present.labels.get(STACK_LABEL) != stack:
                raise Conflict(f"it already exists, and is not of stack {stack}")
            if self._commits.is_latest(present, wanted.data):
                return PayloadPlan(wanted, present, present)
            planned = msgspec.structs.replace(present, latest=present.latest + 1)
            return PayloadPlan(wanted, present, planned)

    async def carry_out(self, plan: PayloadPlan) -> dict[str, str]:
        """Raises what others did meanwhile."""
        wanted, present = plan.wanted, plan.present
        with naming(wanted.kind, {"Name": wanted.name}):
            if present is None:
                return _action(await self._commits.create(wanted, plan.planned.id), "created")
            after = present
            if plan.planned != present:
                after = await self._commits.put_data(present, wanted.data)
            if after.labels != wanted.labels:
                version = self._api.state.modified(payload_key(wanted.kind, after.id))
                await self._commits.set_labels(after, wanted.labels, version)
            return _action(after, "unchanged" if after.latest == present.latest else "updated")

    async def remove(self, payloads: Iterable[Payload]) -> PayloadInUse | None:
        """Remove all that nothing uses; the refusal of one that a service outside does."""
        refusal = None
        for payload in payloads:
            try:
                await self._commits.remove(payload)
            except NotFound:
                continue
            except PayloadInUse as error:
                refusal = error
        return refusal


def stack_payloads(state: ClusterState, kind: PayloadKind, stack: str) -> list[Payload]:
    return [one for one in state.payloads(kind).values() if one.labels.get(STACK_LABEL) == stack]


def _action(payload: Payload, action: Action) -> dict[str, str]:
    return {"Name": payload.name, "Id": payload.id, "Action": action}


def removed(payloads: Iterable[Payload]) -> list[dict[str, str]]:
    return [_action(payload, "removed") for payload in payloads]
