"""Secrets and configs as the cluster stores them: what they are called, and apart from that what
is in them.

Both are *payloads*: bytes with a name that tasks are given as files. Their data is numbered from 1
on, is never changed, and stands under keys of its own, so that nothing that shows a secret or a
config holds any of it.
"""

from typing import ClassVar, Literal

from essaim_shared.ids import PayloadId
from essaim_shared.objects import Stored

PayloadKind = Literal["secret", "config"]

PAYLOAD_KINDS: tuple[PayloadKind, ...] = ("secret", "config")


class _Named(Stored, frozen=True, kw_only=True):
    """What secrets and configs have in common."""

    id: PayloadId
    name: str
    """Unique among its kind."""
    labels: dict[str, str] = {}
    latest: int = 1
    """The newest number of its data."""
    created_ns: int
    updated_ns: int


class Secret(_Named, frozen=True, kw_only=True):
    """`/secrets/ID`, written by the API."""

    kind: ClassVar[PayloadKind] = "secret"


class Config(_Named, frozen=True, kw_only=True):
    """`/configs/ID`, written by the API."""

    kind: ClassVar[PayloadKind] = "config"


Payload = Secret | Config


class SecretData(Stored, frozen=True, kw_only=True):
    """`/secret_data/ID/NUMBER`, written by the API together with the secret."""

    secret_id: PayloadId
    number: int
    sealed: bytes
    """With the masters' key, bound to id and number: opened only for a node that has a task with
    this secret."""
    created_ns: int

    def __repr__(self) -> str:
        return f"SecretData({self.secret_id}/{self.number})"


class ConfigData(Stored, frozen=True, kw_only=True):
    """`/config_data/ID/NUMBER`, written by the API together with the config."""

    config_id: PayloadId
    number: int
    data: bytes
    created_ns: int

    def __repr__(self) -> str:
        return f"ConfigData({self.config_id}/{self.number})"


PayloadData = SecretData | ConfigData
