"""What a change makes of a service: its versions, its history, and the writes of both.

Pure. The API changes services when users ask, the leader's updater when an update failed; both
come here, so that a service counts alike whoever changed it.
"""

from collections.abc import Mapping

import msgspec

from essaim_master.state.payload_references import followed_after
from essaim_master.state.spec_defaults import task_with_defaults, with_defaults
from essaim_master.state.writes import Writes
from essaim_shared.errors import InvalidRequest
from essaim_shared.limits import REVISIONS_KEPT
from essaim_shared.objects import RegistryCredentials, Service, ServiceRevision
from essaim_shared.spec import PortConfig, ServiceMode, ServiceSpec

Revisions = Mapping[int, ServiceRevision]
"""The kept ones of one service by number, oldest first (`ClusterState.revisions_of`)."""


def changed_service(service: Service, spec: ServiceSpec, now_ns: int) -> Service:
    """The service with another spec, the present one becoming its previous.

    `spec` keeps the name and the mode of the service and was checked.
    """
    return _with_spec(service, spec, service.spec, now_ns)


def swapped_service(service: Service, now_ns: int) -> Service:
    """A user's rollback: the present and the previous spec change places, so that a second
    rollback undoes the first (swarmkit manager/controlapi/service.go, UpdateService).

    Raises InvalidRequest when there is no previous spec.
    """
    return _rollback(service, _previous_spec(service), service.spec, now_ns)


def rolled_back_service(service: Service, now_ns: int) -> Service:
    """The rollback of an update that failed: the previous spec is used up, so that there is never
    a rollback of a rollback (swarmkit manager/orchestrator/update/updater.go, rollbackUpdate).

    Raises InvalidRequest when there is no previous spec.
    """
    return _rollback(service, _previous_spec(service), None, now_ns)


def service_at_revision(
    service: Service, revisions: Revisions, number: int, now_ns: int
) -> Service:
    """The service with the spec of an older revision, at its present scale: how many there are is
    nobody's wish to undo. Raises InvalidRequest when that revision is not kept."""
    history = history_of(service, revisions)
    found = history.get(number)
    if found is None:
        kept = ", ".join(str(one) for one in history)
        raise InvalidRequest(
            f"service {service.spec.name} has no revision {number}: these are kept: {kept}"
        )
    spec = msgspec.structs.replace(found.spec, mode=service.spec.mode)
    return _rollback(service, spec, service.spec, now_ns)


def promoted_service(service: Service, now_ns: int) -> Service:
    """The service whose stepped update may take the step that it waits before."""
    return msgspec.structs.replace(
        service,
        promotions=service.promotions + 1,
        updated_ns=max(now_ns, service.updated_ns),
    )


def history_of(service: Service, revisions: Revisions) -> Revisions:
    """The specs that the service has or had, oldest first. One that was never changed holds the
    only one itself."""
    if service.revision in revisions:
        return revisions
    return {**revisions, service.revision: _unkept_revision(service)}


def service_writes(revisions: Revisions, before: Service | None, after: Service) -> Writes:
    """The writes that make `after` of `before` (None: of nothing), with its history, which begins
    with the first change: most services see none, and their spec is written once.

    The caller adds the compare of the service's version; revisions change only together with
    their service, so that guards them too.
    """
    writes = Writes()
    writes.put(after)
    if before is None or before.revision == after.revision:
        return writes
    kept = list(revisions)
    if before.revision not in revisions:
        writes.put(_unkept_revision(before))
        kept.append(before.revision)
    writes.put(_revision_of(after, after.updated_ns))
    for number in sorted(kept)[: max(0, len(kept) + 1 - REVISIONS_KEPT)]:
        writes.delete_service_revision(after.id, number)
    return writes


def swap_credentials(writes: Writes, stored: RegistryCredentials | None) -> None:
    """With a rollback to the previous spec those that it had come back: the image of the present
    one may be another registry's. Credentials change only together with their service, so its
    compare guards them too."""
    if stored is not None and stored.previous_sealed is not None:
        writes.put(
            msgspec.structs.replace(
                stored, sealed=stored.previous_sealed, previous_sealed=stored.sealed
            )
        )


def _previous_spec(service: Service) -> ServiceSpec:
    if service.previous_spec is None:
        raise InvalidRequest(
            "rpc error: code = FailedPrecondition desc = "
            f"service {service.id} does not have a previous spec"
        )
    return service.previous_spec


def _rollback(
    service: Service, spec: ServiceSpec, previous: ServiceSpec | None, now_ns: int
) -> Service:
    changed = _with_spec(service, spec, previous, now_ns)
    return msgspec.structs.replace(changed, is_rollback=True)


def is_scaling(before: ServiceSpec, after: ServiceSpec) -> bool:
    """Whether the two differ in nothing but how many tasks they ask for. To say a default, or to
    leave it unsaid, is the same: docker-py writes all of them out when it scales."""
    return _without_scale(before) == _without_scale(after)


def _with_spec(
    service: Service, spec: ServiceSpec, previous: ServiceSpec | None, now_ns: int
) -> Service:
    runs_anew = is_run_by_updates(spec)
    is_new_template = runs_anew or _task_facts(spec) != _task_facts(service.spec)
    # A clock that was set back must not date a change before the one that it follows.
    updated_ns = max(now_ns, service.updated_ns)
    return msgspec.structs.replace(
        service,
        spec=spec,
        previous_spec=previous,
        spec_version=service.spec_version + is_new_template,
        is_rollback=False,
        promotions=0 if is_new_template else service.promotions,
        generation=service.generation + 1,
        revision=service.revision + (not is_scaling(service.spec, spec)),
        job_iteration=service.job_iteration + runs_anew,
        executed_ns=updated_ns if runs_anew else service.executed_ns,
        followed=followed_after(service, spec),
        updated_ns=updated_ns,
    )


def is_run_by_updates(spec: ServiceSpec) -> bool:
    """Whether creating or updating the service runs it: so it is with jobs, unless they run by a
    schedule."""
    return spec.mode.is_job and not spec.schedule


def _task_facts(spec: ServiceSpec) -> tuple[object, ...]:
    """What a task is made of: a task's ports on its node are the service's of the mode `host`."""
    return task_with_defaults(spec.task), host_ports(spec)


def host_ports(spec: ServiceSpec) -> tuple[PortConfig, ...]:
    """The ports that are published on the nodes where the tasks run."""
    ports = () if spec.endpoint is None else spec.endpoint.ports
    return tuple(port for port in ports if port.publish_mode == "host")


def ingress_ports(spec: ServiceSpec) -> tuple[PortConfig, ...]:
    """The ports that are published on every node."""
    ports = () if spec.endpoint is None else spec.endpoint.ports
    return tuple(port for port in ports if port.publish_mode != "host")


def _without_scale(spec: ServiceSpec) -> ServiceSpec:
    mode = spec.mode
    if mode.replicated is not None or mode.replicated_job is not None:
        mode = ServiceMode()
    return with_defaults(msgspec.structs.replace(spec, mode=mode))


def _unkept_revision(service: Service) -> ServiceRevision:
    """The present spec of a service that has no history yet."""
    is_first = service.revision == 1
    return _revision_of(service, service.created_ns if is_first else service.updated_ns)


def _revision_of(service: Service, created_ns: int) -> ServiceRevision:
    return ServiceRevision(
        service_id=service.id,
        number=service.revision,
        spec=service.spec,
        created_ns=created_ns,
    )
