"""What a request to create or change a service means: the service it makes, as a value.

Pure: the caller reads the state, draws ids, and writes under the compare of the version that the
client named.
"""

from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from essaim_master.http.errors import ImmutableName
from essaim_master.http.image_name import familiar_image
from essaim_master.http.json_edge import decode_object, decode_spec, essaim_fields, field_of
from essaim_master.http.validation import check_service_name, check_service_spec
from essaim_shared.container_spec import DnsConfig
from essaim_shared.errors import InvalidRequest, NotSupported
from essaim_shared.ids import ServiceId
from essaim_shared.limits import RESTART_DELAY_DEFAULT_NS, STOP_GRACE_PERIOD_DEFAULT_NS
from essaim_shared.objects import Service
from essaim_shared.spec import EndpointSpec, ReplicatedMode, RestartPolicy, ServiceMode, ServiceSpec
from essaim_shared.spec_base import Spec, keep_essaim_fields

REPLICAS_DEFAULT = 1

S = TypeVar("S", bound=Spec)

_OTHER_MODES = {
    "Global": "global services",
    "ReplicatedJob": "replicated jobs",
    "GlobalJob": "global jobs",
}


def decode_service_spec(body: bytes) -> ServiceSpec:
    """The spec in the body of a create or an update. Raises InvalidRequest, NotSupported."""
    fields = decode_object(body, "service spec")
    _check_mode(field_of(fields, "Mode"))
    return decode_spec(fields, ServiceSpec, "service spec")


def created_service(spec: ServiceSpec, service_id: ServiceId, now_ns: int) -> Service:
    """A new service; its spec has a name by now. Raises InvalidRequest."""
    check_service_name(spec.name)
    check_service_spec(spec)
    return Service(id=service_id, spec=_canonical(spec), created_ns=now_ns, updated_ns=now_ns)


def updated_service(service: Service, spec: ServiceSpec, now_ns: int) -> Service:
    """The service with another spec.

    `spec_version` grows only when the task template changed, so that a scale restarts nothing.
    Raises InvalidRequest, ImmutableName.
    """
    if spec.name and spec.name != service.spec.name:
        raise ImmutableName
    named = msgspec.structs.replace(spec, name=service.spec.name)
    kept = _keep_in_absent_parts(keep_essaim_fields(named, service.spec), service.spec)
    check_service_spec(kept)
    return _with_spec(service, _canonical(kept), service.spec, now_ns)


def rolled_back_service(service: Service, now_ns: int) -> Service:
    """The service with its previous spec, which is then used up, as in Swarm."""
    if service.previous_spec is None:
        raise InvalidRequest(
            "rpc error: code = FailedPrecondition desc = "
            f"service {service.id} does not have a previous spec"
        )
    return _with_spec(service, service.previous_spec, None, now_ns)


def with_defaults(spec: ServiceSpec) -> ServiceSpec:
    """What `insertDefaults=true` shows: the values that hold where the spec says nothing."""
    container = spec.task.container
    if container.stop_grace_period is None:
        container = msgspec.structs.replace(
            container, stop_grace_period=STOP_GRACE_PERIOD_DEFAULT_NS
        )
    if container.dns_config is None:
        container = msgspec.structs.replace(container, dns_config=DnsConfig())
    policy = spec.task.restart_policy or RestartPolicy()
    if policy.delay is None:
        policy = msgspec.structs.replace(policy, delay=RESTART_DELAY_DEFAULT_NS)
    if policy.max_attempts is None:
        policy = msgspec.structs.replace(policy, max_attempts=0)
    return msgspec.structs.replace(
        spec,
        task=msgspec.structs.replace(spec.task, container=container, restart_policy=policy),
        endpoint=spec.endpoint or EndpointSpec(mode="vip"),
    )


def _with_spec(
    service: Service, spec: ServiceSpec, previous: ServiceSpec | None, now_ns: int
) -> Service:
    return msgspec.structs.replace(
        service,
        spec=spec,
        previous_spec=previous,
        spec_version=service.spec_version + (spec.task != service.spec.task),
        updated_ns=max(now_ns, service.created_ns),
    )


def _check_mode(mode: Any) -> None:
    """`{"Global": {}}` is empty and yet says something, so the mode is looked at by itself."""
    if not isinstance(mode, dict):
        return
    for name, words in _OTHER_MODES.items():
        if field_of(mode, name) is not None:
            raise NotSupported(
                f"Essaim runs replicated services only so far, not {words}: "
                f"create it with --mode replicated"
            )


def _canonical(spec: ServiceSpec) -> ServiceSpec:
    """One form for what can be said in several: only a real change may look like one."""
    container = msgspec.structs.replace(
        spec.task.container, image=familiar_image(spec.task.container.image)
    )
    task = msgspec.structs.replace(spec.task, container=container)
    return _clear_nulls(_count_replicas(msgspec.structs.replace(spec, task=task)))


def _count_replicas(spec: ServiceSpec) -> ServiceSpec:
    """Without `--replicas` docker sends `"Replicated":{}` and needs the number back."""
    replicated = spec.mode.replicated
    if replicated is not None and replicated.replicas is not None:
        return spec
    mode = ServiceMode(replicated=ReplicatedMode(replicas=REPLICAS_DEFAULT))
    return msgspec.structs.replace(spec, mode=mode)


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
                changes[name] = type(present)(**ours)
        elif isinstance(wanted, Spec):
            changes[name] = _keep_in_absent_parts(wanted, present)
    return msgspec.structs.replace(new, **changes) if changes else new


def _clear_nulls(spec: S) -> S:
    """Essaim fields that were cleared, as if never set: a null alone must not look like a change
    of the task template."""
    changes: dict[str, Any] = {}
    ours = essaim_fields(type(spec))
    for name in spec.__struct_fields__:
        value = getattr(spec, name)
        if value is None and name in ours:
            changes[name] = UNSET
        elif isinstance(value, Spec):
            cleared = _clear_nulls(value)
            if cleared is not value:
                changes[name] = cleared
    return msgspec.structs.replace(spec, **changes) if changes else spec
