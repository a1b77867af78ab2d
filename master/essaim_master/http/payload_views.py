"""Secrets and configs in the shapes of Docker's Engine API, and which of them a list shows. Pure.

Of a secret nothing is ever shown of its data; of a config only where one is looked at by itself.
`DataVersion` and `DataVersions` are Essaim's.
"""

import base64
from collections.abc import Callable, Sequence
from typing import Any

from essaim_master.http.filters import Filters, all_labels, any_equal, any_prefix
from essaim_shared.clock import rfc3339
from essaim_shared.payload_objects import ConfigData, Payload

DockerObject = dict[str, Any]

PAYLOAD_FILTERS = frozenset({"id", "name", "names", "label"})


def payload_object(payload: Payload, version: int, numbers: Sequence[int] = ()) -> DockerObject:
    """swarm.Secret or swarm.Config. `numbers` are those of the data that is kept."""
    shown: DockerObject = {
        "ID": payload.id,
        "Version": {"Index": version},
        "CreatedAt": rfc3339(payload.created_ns),
        "UpdatedAt": rfc3339(payload.updated_ns),
        "Spec": {"Name": payload.name, "Labels": payload.labels},
        "DataVersion": payload.latest,
    }
    if numbers:
        shown["DataVersions"] = list(numbers)
    return shown


def with_config_data(shown: DockerObject, data: ConfigData) -> DockerObject:
    spec = {**shown["Spec"], "Data": base64.b64encode(data.data).decode()}
    return {**shown, "Spec": spec}


def payload_matcher(filters: Filters) -> Callable[[Payload], bool]:
    """`name` is a prefix, `names` the whole of it (moby daemon/cluster/filters.go)."""

    def matches(payload: Payload) -> bool:
        return (
            any_prefix(filters.get("id"), payload.id)
            and any_prefix(filters.get("name"), payload.name)
            and any_equal(filters.get("names"), payload.name)
            and all_labels(filters.get("label"), payload.labels)
        )

    return matches
