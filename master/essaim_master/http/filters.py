"""The `filters` parameter of lists: which objects a client wants to see.

Values of one filter are alternatives, except labels, which must all hold; filters add up. Two
spellings are taken: `{"label":{"a=b":true}}` and the old `{"label":["a=b"]}`. What each filter
matches is moby's (daemon/cluster/filters.go) and swarmkit's (manager/controlapi).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from essaim_master.state.network_uses import PREDEFINED_NETWORKS
from essaim_shared.errors import InvalidRequest
from essaim_shared.objects import Network, NodeDescription, NodeObject, Service, Task
from essaim_shared.spec import ServiceMode
from essaim_shared.task_state import TaskState

Filters = Mapping[str, Sequence[str]]

SERVICE_FILTERS = frozenset({"id", "name", "label", "mode", "runtime"})
TASK_FILTERS = frozenset(
    {"id", "name", "label", "service", "node", "desired-state", "_up-to-date", "runtime"}
)
NODE_FILTERS = frozenset({"id", "name", "label", "node.label", "role", "membership"})
NETWORK_FILTERS = frozenset({"id", "name", "driver", "label", "scope", "type", "dangling"})
NETWORK_PRUNE_FILTERS = frozenset({"label", "label!"})

FILTERS_BYTES_MAX = 64 * 1024

_MODES = frozenset({"replicated", "global", "replicated-job", "global-job"})
_TRUE = frozenset({"1", "true", "True", "TRUE", "t", "T"})
_FALSE = frozenset({"0", "false", "False", "FALSE", "f", "F"})

_decoder = msgspec.json.Decoder(dict[str, dict[str, bool] | list[str]])


def decode_filters(text: str, known: frozenset[str]) -> dict[str, list[str]]:
    """Raises InvalidRequest for malformed JSON and for a filter that this list does not have."""
    if not text:
        return {}
    if len(text) > FILTERS_BYTES_MAX:
        raise InvalidRequest(f"invalid filter: over {FILTERS_BYTES_MAX} characters")
    try:
        decoded = _decoder.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise InvalidRequest(f"invalid filter: {error}") from error
    for name in decoded:
        if name not in known:
            raise InvalidRequest(f"invalid filter '{name}'")
    return {name: list(values) for name, values in decoded.items() if values}


def service_matcher(filters: Filters) -> Callable[[Service], bool]:
    """Raises InvalidRequest for a value that is none of the filter's."""
    for mode in filters.get("mode", ()):
        if mode not in _MODES:
            raise _invalid_value("mode", mode)

    def matches(service: Service) -> bool:
        return (
            any_prefix(filters.get("id"), service.id)
            and any_prefix(filters.get("name"), service.spec.name)
            and all_labels(filters.get("label"), service.spec.labels)
            and any_equal(filters.get("mode"), _mode_name(service.spec.mode))
            and any_equal(filters.get("runtime"), "container")
        )

    return matches


def task_matcher(filters: Filters, is_up_to_date: Callable[[Task], bool]) -> Callable[[Task], bool]:
    """`service` and `node` hold ids here: the caller has looked up what the user typed."""
    states = frozenset(_desired_state(name) for name in filters.get("desired-state", ()))
    wanted = {_boolean("_up-to-date", value) for value in filters.get("_up-to-date", ())}

    def matches(task: Task) -> bool:
        return (
            any_equal(filters.get("service"), task.service_id)
            and any_equal(filters.get("node"), task.node_id or "")
            and any_prefix(filters.get("id"), task.id)
            and any_prefix(filters.get("name"), f"{task.name}.{task.id}")
            and all_labels(filters.get("label"), task.service_labels)
            and any_equal(filters.get("runtime"), "container")
            and (not states or task.desired_state in states)
            and (True not in wanted or is_up_to_date(task))
        )

    return matches


def node_matcher(
    filters: Filters,
) -> Callable[[NodeObject, NodeDescription | None, str], bool]:
    """The result takes a node, its description if it ever registered, and its role."""
    for role in filters.get("role", ()):
        if role not in ("worker", "manager"):
            raise _invalid_value("role", role)
    for membership in filters.get("membership", ()):
        if membership not in ("accepted", "pending"):
            raise _invalid_value("membership", membership)

    def matches(node: NodeObject, description: NodeDescription | None, role: str) -> bool:
        hostname = node.spec.name if description is None else description.hostname
        engine_labels = {} if description is None else description.engine_labels
        return (
            any_prefix(filters.get("id"), node.id)
            and any_prefix(filters.get("name"), hostname)
            and all_labels(filters.get("label"), engine_labels)
            and all_labels(filters.get("node.label"), node.spec.labels)
            and any_equal(filters.get("role"), role)
            and any_equal(filters.get("membership"), "accepted")
        )

    return matches


def network_matcher(
    filters: Filters, is_dangling: Callable[[Network], bool]
) -> Callable[[Network], bool]:
    """`is_dangling`: whether nothing uses the network. Raises InvalidRequest for a value that is
    none of the filter's."""
    for type_ in filters.get("type", ()):
        if type_ not in ("custom", "builtin"):
            raise _invalid_value("type", type_)
    dangling = {_boolean("dangling", value) for value in filters.get("dangling", ())}

    def matches(network: Network) -> bool:
        is_predefined = network.name in PREDEFINED_NETWORKS
        return (
            _any_substring(filters.get("id"), network.id)
            and _any_substring(filters.get("name"), network.name)
            and any_equal(filters.get("driver"), network.driver)
            and any_equal(filters.get("scope"), "swarm")
            and any_equal(filters.get("type"), "builtin" if is_predefined else "custom")
            and all_labels(filters.get("label"), network.labels)
            and not any(all_labels([word], network.labels) for word in filters.get("label!", ()))
            and (not dangling or is_dangling(network) in dangling)
        )

    return matches


def _mode_name(mode: ServiceMode) -> str:
    if mode.global_ is not None:
        return "global"
    if mode.replicated_job is not None:
        return "replicated-job"
    return "global-job" if mode.global_job is not None else "replicated"


def any_prefix(prefixes: Iterable[str] | None, value: str) -> bool:
    return prefixes is None or any(value.startswith(prefix) for prefix in prefixes)


def _any_substring(parts: Iterable[str] | None, value: str) -> bool:
    return parts is None or any(part in value for part in parts)


def any_equal(choices: Iterable[str] | None, value: str) -> bool:
    return choices is None or value in choices


def all_labels(wanted: Iterable[str] | None, labels: Mapping[str, str]) -> bool:
    """`KEY` asks that the label is there, `KEY=VALUE` for its value too."""
    for word in wanted or ():
        key, separator, value = word.partition("=")
        if key not in labels or (separator and value and labels[key] != value):
            return False
    return True


def _desired_state(name: str) -> TaskState:
    for state in TaskState:
        if state.docker_name == name.lower():
            return state
    raise _invalid_value("desired-state", name)


def _boolean(name: str, value: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise _invalid_value(name, value)


def _invalid_value(name: str, value: str) -> InvalidRequest:
    return InvalidRequest(f"invalid filter '{name}={value}'")
