"""The secrets and configs of a service against what the cluster has: names and ids are looked up,
and each reference gets the number of the data that it stands for. Pure.

Docker's clients write references back without our fields. The number then is the newest, but for a
service that was rolled back to older data: it keeps that until there is newer, as the leader leaves
it alone too. An explicit null asks for the newest in any case. A job that its updates run is not
changed by the leader: each update brings it the newest. What a spec alone can tell is checked in
`validation`; sentences are swarmkit's (manager/controlapi/service.go).
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import msgspec
from msgspec import UNSET

from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.errors import UnknownPayload
from essaim_master.state.payload_data import HasPayloads, has_data, payload_named
from essaim_master.state.payload_references import (
    Reference,
    name_of,
    newest_seen,
    references_of,
    use_of,
)
from essaim_master.state.service_changes import is_run_by_updates
from essaim_shared.container_spec import ConfigReference, ReferencedFile, SecretReference
from essaim_shared.ids import PayloadId
from essaim_shared.objects import Service
from essaim_shared.payload_objects import Payload, PayloadKind
from essaim_shared.spec import ServiceSpec

R = TypeVar("R", SecretReference, ConfigReference)


class PayloadLookup(Protocol):
    """The secrets and configs that a service can refer to."""

    def find(self, kind: PayloadKind, payload_id: str, name: str) -> Payload | None:
        """The one with this id and name; without an id the one of that name."""
        ...

    def has_data(self, payload: Payload, number: int) -> bool: ...


class StatePayloads:
    """Those of the state that the caller is shown, and such as are about to be written, which come
    first."""

    def __init__(
        self,
        state: ClusterState,
        planned: Iterable[Payload] = (),
        seen: HasPayloads | None = None,
    ) -> None:
        """`seen`: None: everything is."""
        self._state = state
        self._seen = seen or state
        self._planned = {(payload.kind, payload.name): payload for payload in planned}

    def find(self, kind: PayloadKind, payload_id: str, name: str) -> Payload | None:
        found = self._planned.get((kind, name))
        if found is None and payload_id:
            found = self._seen.payloads(kind).get(PayloadId(payload_id))
        elif found is None:
            found = payload_named(self._seen, kind, name)
        if found is None or found.name != name or payload_id not in ("", found.id):
            return None
        return found

    def has_data(self, payload: Payload, number: int) -> bool:
        planned = self._planned.get((payload.kind, payload.name))
        if planned is not None and planned.latest == number:
            return True
        return has_data(self._state, payload.kind, payload.id, number)


def with_payload_numbers(
    spec: ServiceSpec, before: Service | None, lookup: PayloadLookup
) -> ServiceSpec:
    """The spec with the id and the number of each secret and config that it names. Raises
    InvalidRequest."""
    container = spec.task.container
    if not (container.secrets or container.configs):
        return spec
    resolver = _Resolver(spec, before, lookup)
    changed = msgspec.structs.replace(
        container,
        secrets=resolver.resolved("secret", container.secrets),
        configs=resolver.resolved("config", container.configs),
    )
    task = msgspec.structs.replace(spec.task, container=changed)
    return msgspec.structs.replace(spec, task=task)


class _Resolver:
    def __init__(self, spec: ServiceSpec, before: Service | None, lookup: PayloadLookup) -> None:
        self._before = before
        self._lookup = lookup
        self._follows_newest = is_run_by_updates(spec)

    def resolved(self, kind: PayloadKind, references: Sequence[R]) -> tuple[R, ...]:
        found = [self._lookup.find(kind, *_asked(one)) for one in references]
        missing = [
            name_of(one) for one, payload in zip(references, found, strict=True) if payload is None
        ]
        if missing:
            kinds = kind if len(missing) == 1 else f"{kind}s"
            raise UnknownPayload(f"{kinds} not found: {', '.join(missing)}")
        numbered = [
            self._numbered(kind, one, payload)
            for one, payload in zip(references, found, strict=True)
            if payload is not None
        ]
        # Docker's client of 20.10 sends them in another order each time, and none means anything.
        return tuple(sorted(numbered, key=_target))

    def _numbered(self, kind: PayloadKind, reference: R, payload: Payload) -> R:
        present = self._present(kind, payload.id, reference)
        pinned, number = reference.is_pinned, reference.data_version
        if present is not None and pinned is UNSET and not isinstance(number, int | None):
            pinned = present.is_pinned
        if self._follows_newest and pinned is not True:
            number = payload.latest
        elif number is UNSET:
            number = self._unsaid_number(payload, present, is_pinned=pinned is True)
        elif number is None:
            number = payload.latest
        if not self._lookup.has_data(payload, number):
            raise UnknownPayload(
                f"{kind} {payload.name} has no data number {number}: the newest is "
                f"{payload.latest}, older ones are kept while something refers to them"
            )
        fields: dict[str, object] = {
            f"{kind}_id": payload.id,
            "file": _canonical(reference.file),
            "data_version": number,
            "is_pinned": True if pinned is True else UNSET,
        }
        return msgspec.structs.replace(reference, **fields)

    def _unsaid_number(
        self, payload: Payload, present: Reference | None, *, is_pinned: bool
    ) -> int:
        if present is None or self._before is None:
            return payload.latest
        _, payload_id, number = use_of(present)
        if is_pinned:
            return number
        if payload.latest > newest_seen(self._before, payload_id):
            return payload.latest
        return number

    def _present(
        self, kind: PayloadKind, payload_id: PayloadId, reference: Reference
    ) -> Reference | None:
        """The service's own reference to the same, at best with the same target."""
        if self._before is None:
            return None
        same = [
            one
            for one in references_of(self._before.spec.task.container)
            if use_of(one)[:2] == (kind, payload_id)
        ]
        same.sort(key=lambda one: _target(one) != _target(reference))
        return same[0] if same else None


def _canonical(file: ReferencedFile | None) -> ReferencedFile | None:
    """Go's clients say an empty string for an owner that they leave alone."""
    if file is None:
        return None
    return msgspec.structs.replace(file, uid=file.uid or "0", gid=file.gid or "0")


def _target(reference: Reference) -> str:
    return "" if reference.file is None else reference.file.name


def _asked(reference: SecretReference | ConfigReference) -> tuple[str, str]:
    if isinstance(reference, SecretReference):
        return reference.secret_id, reference.secret_name
    return reference.config_id, reference.config_name
