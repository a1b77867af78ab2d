"""What a request to create or change a service means: the service it makes, as a value.

Pure: the caller reads the state, draws ids, and writes under the compare of the version that the
client named.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from essaim_master.http.errors import ImmutableMode, ImmutableName
from essaim_master.http.image_name import familiar_image
from essaim_master.http.json_edge import (
    decode_object,
    decode_spec,
    essaim_fields,
    field_of,
    says_nothing,
)
from essaim_master.http.service_networks import NetworkLookup, with_network_ids
from essaim_master.http.service_payloads import PayloadLookup, with_payload_numbers
from essaim_master.http.validation import (
    check_service_name,
    check_service_spec,
    refuse_what_is_not_there_yet,
)
from essaim_master.state.service_changes import changed_service, is_run_by_updates
from essaim_shared.container_spec import Probes
from essaim_shared.errors import InvalidRequest
from essaim_shared.ids import ServiceId
from essaim_shared.limits import SPEC_BYTES_MAX, UPDATE_PARALLELISM_DEFAULT
from essaim_shared.objects import Service
from essaim_shared.spec import (
    EndpointSpec,
    ReplicatedJobMode,
    ReplicatedMode,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)
from essaim_shared.spec_base import Spec, keep_essaim_fields

REPLICAS_DEFAULT = 1
CONCURRENT_DEFAULT = 1

_EMPTY = ("", (), Probes())

S = TypeVar("S", bound=Spec)


def decode_service_spec(body: bytes) -> ServiceSpec:
    """The spec in the body of a create or an update. Raises InvalidRequest, NotSupported."""
    return service_spec_of(decode_object(body, "service spec"))


def service_spec_of(fields: Mapping[str, Any]) -> ServiceSpec:
    """As `decode_service_spec`, of a decoded object."""
    refuse_what_is_not_there_yet(fields)
    return decode_spec(_with_networks_in_task(fields), ServiceSpec, "service spec")


def _with_networks_in_task(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Clients from before API 1.25 name the networks beside the template. They hold where the
    template names none (moby daemon/cluster/services.go, populateNetworkID)."""
    outer = next((name for name in fields if name.casefold() == "networks"), None)
    task = field_of(fields, "TaskTemplate")
    if outer is None or not isinstance(task, dict):
        return fields
    rest = {name: value for name, value in fields.items() if name != outer}
    if says_nothing(fields[outer]) or not says_nothing(field_of(task, "Networks")):
        return rest
    place = next(name for name in fields if name.casefold() == "tasktemplate")
    bare = {name: value for name, value in task.items() if name.casefold() != "networks"}
    return {**rest, place: {**bare, "Networks": fields[outer]}}


def created_service(
    spec: ServiceSpec,
    service_id: ServiceId,
    now_ns: int,
    find: NetworkLookup | None = None,
    payloads: PayloadLookup | None = None,
) -> Service:
    """A new service; its spec has a name by now. `find` is for the networks that it names,
    `payloads` for its secrets and configs.

    Raises InvalidRequest, NotSupported, NotFound.
    """
    check_service_name(spec.name)
    checked = _checked(spec, None, find, payloads)
    return Service(
        id=service_id,
        spec=checked,
        executed_ns=now_ns if is_run_by_updates(checked) else 0,
        created_ns=now_ns,
        updated_ns=now_ns,
    )


def updated_service(
    service: Service,
    spec: ServiceSpec,
    now_ns: int,
    find: NetworkLookup | None = None,
    payloads: PayloadLookup | None = None,
) -> Service:
    """The service with another spec: an absent Essaim field keeps its value.

    Raises InvalidRequest, NotSupported, NotFound, ImmutableName, ImmutableMode.
    """
    if spec.name and spec.name != service.spec.name:
        raise ImmutableName
    named = msgspec.structs.replace(spec, name=service.spec.name)
    kept = _keep_in_absent_parts(keep_essaim_fields(named, service.spec), service.spec)
    checked = _checked(kept, service, find, payloads)
    if _kind_of(checked) != _kind_of(service.spec):
        raise ImmutableMode
    return changed_service(service, checked, now_ns)


def _checked(
    spec: ServiceSpec,
    before: Service | None,
    find: NetworkLookup | None,
    payloads: PayloadLookup | None,
) -> ServiceSpec:
    """The spec in its canonical form. Raises InvalidRequest, NotSupported, NotFound."""
    check_service_spec(spec)
    if find is not None:
        spec = with_network_ids(spec, find)
    if payloads is not None:
        spec = with_payload_numbers(spec, before, payloads)
    canonical = _canonical(spec)
    size_bytes = len(msgspec.msgpack.encode(canonical))
    if size_bytes > SPEC_BYTES_MAX:
        raise InvalidRequest(
            f"the service spec is too large: it takes {size_bytes} bytes of at most "
            f"{SPEC_BYTES_MAX}; put large values into files or the image"
        )
    return canonical


def _kind_of(spec: ServiceSpec) -> tuple[bool, ...]:
    """What can never change. A job that runs by a schedule numbers its runs otherwise than one
    that each update runs."""
    mode = spec.mode
    return (
        mode.replicated is not None,
        mode.global_ is not None,
        mode.replicated_job is not None,
        mode.global_job is not None,
        bool(spec.schedule),
    )


def _canonical(spec: ServiceSpec) -> ServiceSpec:
    """One form for what can be said in several: only a real change may look like one."""
    container = msgspec.structs.replace(
        spec.task.container, image=familiar_image(spec.task.container.image), isolation=""
    )
    task = msgspec.structs.replace(spec.task, container=container, runtime="")
    return _without_empty(
        msgspec.structs.replace(
            spec,
            task=task,
            endpoint=_canonical_endpoint(spec.endpoint),
            mode=_canonical_mode(spec.mode),
            update_config=_canonical_update(spec.update_config),
            rollback_config=_canonical_update(spec.rollback_config),
        )
    )


def _canonical_endpoint(endpoint: EndpointSpec | None) -> EndpointSpec | None:
    if endpoint is None or all(port.publish_mode for port in endpoint.ports):
        return endpoint
    ports = tuple(
        msgspec.structs.replace(port, publish_mode=port.publish_mode or "ingress")
        for port in endpoint.ports
    )
    return msgspec.structs.replace(endpoint, ports=ports)


def _canonical_mode(mode: ServiceMode) -> ServiceMode:
    """Without `--replicas` docker sends `"Replicated":{}` and needs the number back. The numbers
    of a job are completed as moby does (daemon/cluster/convert/service.go)."""
    if mode.is_global:
        return mode
    job = mode.replicated_job
    if job is not None:
        concurrent = CONCURRENT_DEFAULT if job.max_concurrent is None else job.max_concurrent
        total = concurrent if job.total_completions is None else job.total_completions
        return ServiceMode(
            replicated_job=ReplicatedJobMode(max_concurrent=concurrent, total_completions=total)
        )
    replicated = mode.replicated
    if replicated is not None and replicated.replicas is not None:
        return mode
    return ServiceMode(replicated=ReplicatedMode(replicas=REPLICAS_DEFAULT))


def _canonical_update(config: UpdateConfig | None) -> UpdateConfig | None:
    if config is None:
        return None
    return msgspec.structs.replace(
        config,
        failure_action=config.failure_action or "pause",
        order=config.order or "stop-first",
        # Docker's clients cannot say "no monitoring": their zero means the default.
        monitor=config.monitor or None,
    )


def _keep_in_absent_parts(new: S, old: S) -> S:
    """Our fields of a part that the client left out altogether, as docker-py leaves out a restart
    policy that it is not given: the part is reset to Docker's defaults, our fields stay."""
    changes: dict[str, Any] = {}
    for name in new.__struct_fields__:
        wanted, present = getattr(new, name), getattr(old, name)
        if not isinstance(present, Spec):
            continue
        if wanted is None:
            ours = {field: getattr(present, field) for field in essaim_fields(type(present))}
            if any(value is not UNSET for value in ours.values()):
                changes[name] = msgspec.structs.replace(_absent_part(type(present)), **ours)
        elif isinstance(wanted, Spec):
            changes[name] = _keep_in_absent_parts(wanted, present)
    return msgspec.structs.replace(new, **changes) if changes else new


def _absent_part(part: type[Spec]) -> Spec:
    """What holds where a client left out this part."""
    return UpdateConfig(parallelism=UPDATE_PARALLELISM_DEFAULT) if part is UpdateConfig else part()


def _without_empty(spec: S) -> S:
    """Essaim fields that were cleared or hold nothing, as if never set: a null alone must not look
    like a change of the task template. A zero stays, it is a number like others."""
    changes: dict[str, Any] = {}
    ours = essaim_fields(type(spec))
    for name in spec.__struct_fields__:
        value = getattr(spec, name)
        if value is UNSET:
            continue
        if name in ours and (value is None or value is False or value in _EMPTY):
            changes[name] = UNSET
        elif isinstance(value, Spec):
            filled = _without_empty(value)
            if filled is not value:
                changes[name] = filled
    return msgspec.structs.replace(spec, **changes) if changes else spec
