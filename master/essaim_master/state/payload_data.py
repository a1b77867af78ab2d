"""The data of secrets and configs as the state holds it, and how it is written. Pure.

A number is given out once and never changed: new data is a new number, and the newest
`DATA_NUMBERS_KEPT` stay, with those that a service, its history or a task still refers to.
"""

from collections.abc import Callable, Mapping, Set
from typing import Protocol

import msgspec

from essaim_master.state import keys
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.keys import payload_data_key, payload_data_prefix
from essaim_master.state.writes import Writes
from essaim_shared.errors import Conflict
from essaim_shared.ids import PayloadId
from essaim_shared.limits import DATA_NUMBERS_KEPT, DATA_NUMBERS_MAX
from essaim_shared.payload_objects import (
    PAYLOAD_KINDS,
    ConfigData,
    Payload,
    PayloadData,
    PayloadKind,
    SecretData,
)

_secret_decoder = msgspec.msgpack.Decoder(SecretData)
_config_decoder = msgspec.msgpack.Decoder(ConfigData)


def secret_data(state: ClusterState, payload_id: PayloadId, number: int) -> SecretData | None:
    found = state.store.get(payload_data_key("secret", payload_id, number))
    return None if found is None else _secret_decoder.decode(found.value)


def config_data(state: ClusterState, payload_id: PayloadId, number: int) -> ConfigData | None:
    found = state.store.get(payload_data_key("config", payload_id, number))
    return None if found is None else _config_decoder.decode(found.value)


def has_data(state: ClusterState, kind: PayloadKind, payload_id: PayloadId, number: int) -> bool:
    return state.store.get(payload_data_key(kind, payload_id, number)) is not None


def data_numbers(state: ClusterState, kind: PayloadKind, payload_id: PayloadId) -> list[int]:
    """The numbers that are kept, oldest first."""
    prefix = payload_data_prefix(kind, payload_id)
    return sorted(int(found.key[len(prefix) :]) for found in state.store.range(prefix))


def payloads_bytes(state: ClusterState) -> int:
    """Of all data that is kept."""
    return sum(
        len(found.value)
        for kind in PAYLOAD_KINDS
        for found in state.store.range(payload_data_prefix(kind))
    )


class HasPayloads(Protocol):
    def payloads(self, kind: PayloadKind) -> Mapping[PayloadId, Payload]: ...


def payload_named(state: HasPayloads, kind: PayloadKind, name: str) -> Payload | None:
    """Names are unique among a kind."""
    for payload in state.payloads(kind).values():
        if payload.name == name:
            return payload
    return None


def creation_of(payload: Payload, data: PayloadData) -> Writes:
    """The writes that make a secret or config, if nobody has its name."""
    writes = Writes()
    writes.claim_payload_name(payload)
    writes.put(payload)
    writes.put(data)
    return writes


def new_data_of(
    state: ClusterState,
    payload: Payload,
    data: PayloadData,
    needed_numbers: Callable[[], Set[int]],
) -> Writes:
    """The writes that put newer data beside the present, and forget what nothing needs.

    `needed_numbers` says which numbers are referred to; it is asked only when there is something
    to forget. Raises Conflict when too many are.
    """
    kind = payload.kind
    key = keys.payload_key(kind, payload.id)
    writes = Writes()
    writes.expect(key, state.modified(key))
    writes.put(
        msgspec.structs.replace(
            payload,
            latest=data.number,
            updated_ns=max(data.created_ns, payload.updated_ns),
        )
    )
    writes.put(data)
    kept = data_numbers(state, kind, payload.id)
    surplus = kept[: max(0, len(kept) + 1 - DATA_NUMBERS_KEPT)]
    if not surplus:
        return writes
    needed = needed_numbers()
    forgotten = [number for number in surplus if number not in needed]
    if len(kept) + 1 - len(forgotten) > DATA_NUMBERS_MAX:
        raise Conflict(
            f"{kind} {payload.name} has {len(kept)} numbers of data that services or tasks still "
            "refer to, which is all that it may have: let services follow the newest"
        )
    if forgotten:
        # A service that comes to refer to one of them at this moment moves the mark.
        use = keys.payload_use_key(payload.id)
        writes.expect(use, state.modified(use))
    for number in forgotten:
        writes.delete_payload_data(kind, payload.id, number)
    return writes


def relabelled(
    payload: Payload,
    labels: dict[str, str],
    version: int,
    now_ns: int,
) -> Writes:
    """The writes that change the labels, if the secret or config is still at that version."""
    writes = Writes()
    writes.expect(keys.payload_key(payload.kind, payload.id), version)
    writes.put(
        msgspec.structs.replace(payload, labels=labels, updated_ns=max(now_ns, payload.updated_ns))
    )
    return writes


def deletion_of(state: ClusterState, payload: Payload) -> Writes:
    """The writes that delete a secret or config without users, if it still has none then."""
    kind = payload.kind
    writes = Writes()
    for key in (keys.payload_key(kind, payload.id), keys.payload_use_key(payload.id)):
        writes.expect(key, state.modified(key))
    writes.delete_payload(payload, data_numbers(state, kind, payload.id))
    return writes
