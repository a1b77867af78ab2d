"""What a request to make or change a secret or config asks for, or why it cannot be. Pure.

Texts and limits are swarmkit's (manager/controlapi/secret.go and config.go). Nothing that is said
here, and nothing that can be printed of a request, holds any of the data.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from essaim_master.http.json_edge import decode_spec
from essaim_master.http.validation.words import check_labels, refusal
from essaim_shared.errors import InvalidRequest, NotSupported
from essaim_shared.limits import CONFIG_BYTES_MAX, SECRET_BYTES_MAX
from essaim_shared.payload_objects import PayloadKind
from essaim_shared.spec_base import Spec

NAME_CHARS_MAX = 64
LABELS_BYTES_MAX = 16 * 1024
"""Of one secret's or config's labels together: with the data they must fit one transaction."""
DATA_BYTES_MAX: Mapping[PayloadKind, int] = {
    "secret": SECRET_BYTES_MAX,
    "config": CONFIG_BYTES_MAX,
}

_NAME = re.compile(r"[a-zA-Z0-9]+(?:[a-zA-Z0-9\-_.]*[a-zA-Z0-9])?")


class PayloadDriver(Spec, frozen=True, kw_only=True):
    name: str = ""
    driver_options: dict[str, str] = {}


class PayloadRequest(Spec, frozen=True, kw_only=True):
    """The body as Docker's clients send it (swarm.SecretSpec, swarm.ConfigSpec)."""

    name: str = ""
    labels: dict[str, str] = {}
    data: str = ""
    driver: PayloadDriver | None = None
    templating: PayloadDriver | None = None

    def __repr__(self) -> str:
        return f"PayloadRequest(name={self.name!r})"


class DataRequest(Spec, frozen=True, kw_only=True):
    """The body of `POST /essaim/secrets/REF/data`."""

    data: str = ""

    def __repr__(self) -> str:
        return "DataRequest()"


class WantedPayload(msgspec.Struct, frozen=True, kw_only=True):
    """A checked request."""

    kind: PayloadKind
    name: str
    labels: dict[str, str] = {}
    data: bytes = b""

    def __repr__(self) -> str:
        return f"WantedPayload({self.kind} {self.name!r})"


def wanted_payload(fields: Mapping[str, Any], kind: PayloadKind) -> WantedPayload:
    """Of a create. Raises InvalidRequest, NotSupported."""
    wanted = wanted_change(fields, kind)
    _check_name(wanted.name)
    check_data(kind, wanted.data)
    return wanted


def wanted_change(fields: Mapping[str, Any], kind: PayloadKind) -> WantedPayload:
    """Of Docker's update, in which there may be no data. Raises InvalidRequest, NotSupported."""
    request = decode_spec(fields, PayloadRequest, f"{kind} spec")
    if request.driver is not None and (request.driver.name or request.driver.driver_options):
        raise NotSupported(
            f"{kind} drivers are not supported: give the data itself, Essaim keeps it sealed"
        )
    if request.templating is not None and request.templating.name:
        raise NotSupported(
            f"templates in {kind}s are not supported: put what differs from task to task into "
            "variables, which take templates"
        )
    check_labels(f"{kind} labels", request.labels)
    size_bytes = sum(len(word.encode()) for pair in request.labels.items() for word in pair)
    if size_bytes > LABELS_BYTES_MAX:
        raise refusal(f"the labels take {size_bytes} bytes of at most {LABELS_BYTES_MAX}")
    return WantedPayload(
        kind=kind, name=request.name, labels=request.labels, data=_decoded(request.data)
    )


def wanted_data(fields: Mapping[str, Any], kind: PayloadKind) -> bytes:
    """Of new data. Raises InvalidRequest."""
    data = _decoded(decode_spec(fields, DataRequest, f"{kind} data").data)
    check_data(kind, data)
    return data


def check_data(kind: PayloadKind, data: bytes) -> None:
    """Raises InvalidRequest."""
    most = DATA_BYTES_MAX[kind]
    if not 0 < len(data) <= most:
        raise refusal(f"{kind} data must be larger than 0 and less than {most + 1} bytes")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        # The cause would hold what was sent.
        raise InvalidRequest('invalid "Data": it is not base64') from None


def _check_name(name: str) -> None:
    if not name:
        raise refusal("name must be provided")
    if len(name) > NAME_CHARS_MAX or not _NAME.fullmatch(name):
        raise refusal(
            f"invalid name, only {NAME_CHARS_MAX} [a-zA-Z0-9-_.] characters allowed, and the "
            "start and end character must be [a-zA-Z0-9]"
        )
