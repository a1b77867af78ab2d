"""How secrets and configs are made, changed and removed: sealed, numbered, and guarded so that
nothing that a service comes to refer to goes at the same moment."""

import hmac

from essaim_master.http.api import GUARDED_ATTEMPTS_MAX, Api
from essaim_master.http.lookup import find_payload
from essaim_master.http.payload_requests import WantedPayload
from essaim_master.http.service_commits import settled
from essaim_master.http.validation.words import refusal
from essaim_master.state.errors import PayloadInUse
from essaim_master.state.keys import payload_key
from essaim_master.state.payload_data import (
    config_data,
    creation_of,
    deletion_of,
    new_data_of,
    payloads_bytes,
    relabelled,
    secret_data,
)
from essaim_master.state.payload_uses import needed_numbers, services_with
from essaim_master.state.writes import LARGE_PAYLOAD_BYTES_MAX
from essaim_shared.errors import Conflict, VersionConflict
from essaim_shared.ids import PayloadId, new_id
from essaim_shared.limits import CONFIGS_MAX, PAYLOADS_BYTES_MAX, SECRETS_MAX
from essaim_shared.payload_objects import (
    Config,
    ConfigData,
    Payload,
    PayloadData,
    PayloadKind,
    Secret,
    SecretData,
)

_COUNT_MAX = {"secret": SECRETS_MAX, "config": CONFIGS_MAX}


class PayloadCommits:
    def __init__(self, api: Api) -> None:
        self._api = api

    async def find(self, kind: PayloadKind, reference: str) -> Payload:
        """For changes, as `ServiceCommits.find`."""
        return await settled(self._api, lambda: find_payload(self._api.seen, kind, reference))

    def new_id(self) -> PayloadId:
        return PayloadId(new_id(self._api.rng))

    def check_can_keep(self, kind: PayloadKind) -> None:
        """Raises NotSupported."""
        if kind == "secret":
            self._api.vault.check_can_seal_secrets()

    async def create(self, wanted: WantedPayload, payload_id: PayloadId) -> Payload:
        """Raises Conflict when the name is taken or there is no more room, NotSupported."""
        api, kind = self._api, wanted.kind
        self.check_can_keep(kind)
        await api.catch_up()
        self.check_count(kind, 1)
        self.check_room(len(wanted.data))
        now_ns = api.clock.wall_ns()
        make = Secret if kind == "secret" else Config
        payload = make(
            id=payload_id,
            name=wanted.name,
            labels=wanted.labels,
            created_ns=now_ns,
            updated_ns=now_ns,
        )
        data = self._data(payload, 1, wanted.data, now_ns)
        if not await api.commit(creation_of(payload, data), LARGE_PAYLOAD_BYTES_MAX):
            raise Conflict(
                f"rpc error: code = AlreadyExists desc = {kind} {wanted.name} already exists"
            )
        return payload

    async def put_data(self, payload: Payload, plain: bytes) -> Payload:
        """Give it newer data, unless it is the same: what was sent twice changes nothing twice.

        Raises NotFound when it is gone, Conflict, NotSupported, SealError.
        """
        api = self._api
        self.check_can_keep(payload.kind)
        for _ in range(GUARDED_ATTEMPTS_MAX):
            payload = find_payload(api.state, payload.kind, payload.id)
            if self.is_latest(payload, plain):
                return payload
            self.check_room(len(plain))
            now_ns = api.clock.wall_ns()
            writes = new_data_of(
                api.state,
                payload,
                self._data(payload, payload.latest + 1, plain, now_ns),
                lambda payload=payload: needed_numbers(api.state, payload),  # type: ignore[misc]
            )
            if await api.commit(writes, LARGE_PAYLOAD_BYTES_MAX):
                return find_payload(api.state, payload.kind, payload.id)
            await api.catch_up()
        raise _busy(payload)

    async def relabel(self, payload: Payload, wanted: WantedPayload, version: int) -> None:
        """Docker's update. Raises VersionConflict, and InvalidRequest for another change than of
        the labels."""
        api = self._api
        key = payload_key(payload.kind, payload.id)
        if api.state.modified(key) != version:
            await api.catch_up()
            payload = find_payload(api.state, payload.kind, payload.id)
            if api.state.modified(key) != version:
                raise VersionConflict
        is_same = not wanted.data or self.is_latest(payload, wanted.data)
        if wanted.name != payload.name or not is_same:
            raise refusal("only updates to Labels are allowed")
        await self.set_labels(payload, wanted.labels, version)

    async def set_labels(self, payload: Payload, labels: dict[str, str], version: int) -> None:
        """Raises VersionConflict."""
        writes = relabelled(payload, labels, version, self._api.clock.wall_ns())
        if not await self._api.commit(writes):
            raise VersionConflict

    async def remove(self, payload: Payload) -> None:
        """Raises NotFound when it is gone, PayloadInUse when a service refers to it."""
        api = self._api
        await api.catch_up()
        for _ in range(GUARDED_ATTEMPTS_MAX):
            payload = find_payload(api.state, payload.kind, payload.id)
            self._check_unused(payload)
            if await api.commit(deletion_of(api.state, payload)):
                return
            await api.catch_up()
        raise _busy(payload)

    def is_latest(self, payload: Payload, plain: bytes) -> bool:
        """Whether this is the newest data already. Raises SealError."""
        if isinstance(payload, Secret):
            sealed = secret_data(self._api.state, payload.id, payload.latest)
            if sealed is None:
                return False
            return hmac.compare_digest(self._api.vault.open_secret(sealed), plain)
        stored = config_data(self._api.state, payload.id, payload.latest)
        return stored is not None and stored.data == plain

    def _data(self, payload: Payload, number: int, plain: bytes, now_ns: int) -> PayloadData:
        if isinstance(payload, Config):
            return ConfigData(config_id=payload.id, number=number, data=plain, created_ns=now_ns)
        sealed = self._api.vault.seal_secret(payload.id, number, plain)
        return SecretData(secret_id=payload.id, number=number, sealed=sealed, created_ns=now_ns)

    def check_count(self, kind: PayloadKind, more: int) -> None:
        """Raises Conflict. Two who come at the same moment may pass it by one, as the next."""
        most = _COUNT_MAX[kind]
        if len(self._api.state.payloads(kind)) + more > most:
            raise Conflict(f"with it there are more than {most} {kind}s: remove some")

    def check_room(self, more_bytes: int) -> None:
        """Raises Conflict."""
        used_bytes = payloads_bytes(self._api.state)
        if used_bytes + more_bytes > PAYLOADS_BYTES_MAX:
            raise Conflict(
                f"the data of all secrets and configs takes {used_bytes} bytes of at most "
                f"{PAYLOADS_BYTES_MAX}: remove some of them"
            )

    def _check_unused(self, payload: Payload) -> None:
        """Raises PayloadInUse, in swarmkit's words (manager/controlapi, RemoveSecret)."""
        names = [service.spec.name for service in services_with(self._api.state, payload)]
        if names:
            services = "service" if len(names) == 1 else "services"
            raise PayloadInUse(
                f"rpc error: code = InvalidArgument desc = "
                f"{payload.kind} '{payload.name}' is in use by the following {services}: "
                f"{', '.join(names)}"
            )


def _busy(payload: Payload) -> Conflict:
    return Conflict(f"{payload.kind} {payload.name} is being changed by others: try again")
