"""What creates, updates and rollbacks make of a service."""

import random

import msgspec
import pytest
from msgspec import UNSET

from essaim_master.http.errors import ImmutableMode, ImmutableName
from essaim_master.http.image_name import familiar_image
from essaim_master.http.service_requests import (
    created_service,
    decode_service_spec,
    updated_service,
)
from essaim_master.http.validation import check_service_name
from essaim_master.state.spec_defaults import with_defaults
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.errors import InvalidRequest
from essaim_shared.ids import ServiceId
from essaim_shared.limits import REPLICAS_MAX
from essaim_shared.random_name import random_name
from essaim_shared.spec import (
    ReplicatedMode,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)

NOW_NS = 1_700_000_000_000_000_000


def spec_of(name="web", replicas=3, image="busybox", **task):
    return ServiceSpec(
        name=name,
        task=TaskSpec(container=ContainerSpec(image=image), **task),
        mode=ServiceMode(replicated=ReplicatedMode(replicas=replicas)),
    )


def service_of(**fields):
    return created_service(spec_of(**fields), ServiceId("s" * 25), NOW_NS)


def read_by_docker(service):
    """The spec as a docker client holds it: it knows nothing of our fields."""
    fields = msgspec.to_builtins(service.spec)
    fields["TaskTemplate"].pop("StopWhenCutOff", None)
    fields["TaskTemplate"].get("RestartPolicy", {}).pop("BackoffMax", None)
    return fields


def test_without_replicas_one_is_stored() -> None:
    for mode in (b'{"Replicated":{}}', b'{"replicated":{"Replicas":null}}', b"{}", b"null"):
        spec = decode_service_spec(
            b'{"Name":"w","TaskTemplate":{"ContainerSpec":{"Image":"x"}},"Mode":%b}' % mode
        )
        service = created_service(spec, ServiceId("s"), NOW_NS)
        assert service.spec.mode.replicated.replicas == 1


def decoded(service=b"{}", container=b"{}"):
    """A service made of JSON: fields of the service, and of its container."""
    container_fields = {"Image": "x", **msgspec.json.decode(container)}
    body = {"Name": "w", "TaskTemplate": {"ContainerSpec": container_fields}}
    spec = decode_service_spec(msgspec.json.encode({**body, **msgspec.json.decode(service)}))
    return spec, created_service(spec, ServiceId("s"), NOW_NS)


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ({"Global": {}}, {"Global": {}}),
        ({"global": {}}, {"Global": {}}),
        ({"Global": None, "Replicated": None}, {"Replicated": {"Replicas": 1}}),
        ({"GlobalJob": {}}, {"GlobalJob": {}}),
        ({"ReplicatedJob": {}}, {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}}),
        (
            {"ReplicatedJob": {"MaxConcurrent": 3}},
            {"ReplicatedJob": {"MaxConcurrent": 3, "TotalCompletions": 3}},
        ),
        (
            {"ReplicatedJob": {"TotalCompletions": 3}},
            {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 3}},
        ),
    ],
)
def test_a_mode_is_stored_with_its_numbers(asked, stored) -> None:
    _, service = decoded(msgspec.json.encode({"Mode": asked}))
    assert msgspec.to_builtins(service.spec.mode) == stored
    assert service.executed_ns == (NOW_NS if service.spec.mode.is_job else 0)


MODES = (
    b'{"Mode":{"Replicated":{}}}',
    b'{"Mode":{"Global":{}}}',
    b'{"Mode":{"ReplicatedJob":{}}}',
    b'{"Mode":{"GlobalJob":{}}}',
    b'{"Mode":{"ReplicatedJob":{}},"Schedule":{"Expression":"@daily"}}',
)


@pytest.mark.parametrize("before", MODES)
@pytest.mark.parametrize("after", MODES)
def test_no_mode_becomes_another(before, after) -> None:
    _, service = decoded(before)
    if before == after:
        assert updated_service(service, decoded(after)[0], NOW_NS).generation == 2
        return
    cleared = {"Schedule": None, **msgspec.json.decode(after)}
    with pytest.raises(ImmutableMode, match="service mode change is not allowed") as caught:
        updated_service(service, decoded(msgspec.json.encode(cleared))[0], NOW_NS)
    assert caught.value.http_status == 501


def test_steps_outlive_a_client_that_leaves_the_update_config_out() -> None:
    """Then Docker's defaults hold, and by those one slot is changed at a time, not all."""
    _, service = decoded(b'{"UpdateConfig":{"Parallelism":4,"Steps":[10,100]}}')
    kept = updated_service(service, decoded()[0], NOW_NS).spec.update_config
    assert (kept.parallelism, kept.steps) == (1, (10, 100))
    _, plain = decoded(b'{"UpdateConfig":{"Parallelism":4}}')
    assert updated_service(plain, decoded()[0], NOW_NS).spec.update_config is None


def test_what_an_update_config_leaves_open_is_filled_in_as_moby_does() -> None:
    _, service = decoded(b'{"UpdateConfig":{"Monitor":0,"Order":""}}')
    assert service.spec.update_config == UpdateConfig(
        parallelism=0, failure_action="pause", monitor=None, order="stop-first"
    )


@pytest.mark.parametrize(
    "empty",
    [
        b'{"Privileged":false}',
        b'{"Devices":[]}',
        b'{"PidMode":""}',
        b'{"Probes":{}}',
        b'{"Probes":{"Liveness":null}}',
        b'{"PullPolicy":null}',
        b'{"Isolation":"default"}',
    ],
)
def test_saying_nothing_in_another_way_is_no_change(empty) -> None:
    _, service = decoded()
    again = updated_service(service, decoded(container=empty)[0], NOW_NS)
    assert (again.spec_version, again.spec) == (1, service.spec)


def test_a_new_service_is_dated_and_its_template_is_the_first() -> None:
    service = service_of()
    assert (service.created_ns, service.updated_ns) == (NOW_NS, NOW_NS)
    assert service.spec_version == 1
    assert service.previous_spec is None


def test_a_scale_leaves_the_tasks_alone_and_keeps_the_previous_spec() -> None:
    service = service_of(replicas=3)
    scaled = updated_service(service, spec_of(replicas=7), NOW_NS + 5)
    assert scaled.spec.replicas == 7
    assert scaled.spec_version == service.spec_version
    assert scaled.previous_spec == service.spec
    assert (scaled.created_ns, scaled.updated_ns) == (NOW_NS, NOW_NS + 5)


@pytest.mark.parametrize("change", [{"image": "busybox:2"}, {"force_update": 1}])
def test_a_change_of_the_template_makes_a_new_version(change) -> None:
    service = service_of()
    assert updated_service(service, spec_of(**change), NOW_NS).spec_version == 2


def test_an_update_back_to_the_old_template_is_a_version_of_its_own() -> None:
    service = service_of()
    changed = updated_service(service, spec_of(image="other"), NOW_NS)
    back = updated_service(changed, spec_of(), NOW_NS)
    assert back.spec == service.spec
    assert back.spec_version == 3


def test_a_docker_client_writes_back_what_it_read_without_losing_our_fields() -> None:
    service = service_of(stop_when_cut_off=30, restart_policy=RestartPolicy(backoff_max=60))
    fields = read_by_docker(service)
    fields["Mode"]["Replicated"]["Replicas"] = 9
    written = decode_service_spec(msgspec.json.encode(fields))
    scaled = updated_service(service, written, NOW_NS)
    assert scaled.spec.replicas == 9
    assert scaled.spec.task == service.spec.task
    assert scaled.spec_version == service.spec_version


def test_our_field_outlives_the_docker_part_around_it() -> None:
    service = service_of(restart_policy=RestartPolicy(condition="none", backoff_max=60))
    rewritten = updated_service(service, spec_of(), NOW_NS)
    assert rewritten.spec.task.restart_policy == RestartPolicy(backoff_max=60)
    plain = service_of(restart_policy=RestartPolicy(condition="none"))
    assert updated_service(plain, spec_of(), NOW_NS).spec.task.restart_policy is None


def test_only_an_explicit_null_clears_our_field() -> None:
    service = service_of(stop_when_cut_off=30)
    fields = read_by_docker(service)
    fields["TaskTemplate"]["StopWhenCutOff"] = None
    cleared = updated_service(service, decode_service_spec(msgspec.json.encode(fields)), NOW_NS)
    assert cleared.spec.task.stop_when_cut_off is UNSET
    assert cleared.spec_version == 2


def test_a_null_for_a_field_that_was_never_set_changes_nothing() -> None:
    service = service_of()
    fields = read_by_docker(service)
    fields["TaskTemplate"]["StopWhenCutOff"] = None
    same = updated_service(service, decode_service_spec(msgspec.json.encode(fields)), NOW_NS)
    assert same.spec_version == service.spec_version


def test_a_rename_is_refused_in_swarms_words() -> None:
    with pytest.raises(ImmutableName, match="renaming services is not supported") as caught:
        updated_service(service_of(), spec_of(name="other"), NOW_NS)
    assert caught.value.http_status == 501


def test_an_update_without_a_name_keeps_it() -> None:
    assert updated_service(service_of(), spec_of(name=""), NOW_NS).spec.name == "web"


def test_an_update_is_checked_like_a_create() -> None:
    with pytest.raises(InvalidRequest, match="image reference must be provided"):
        updated_service(service_of(), spec_of(image=""), NOW_NS)


def test_a_clock_that_was_set_back_does_not_date_an_update_before_the_create() -> None:
    assert updated_service(service_of(), spec_of(), NOW_NS - 10).updated_ns == NOW_NS


@pytest.mark.parametrize("replicas", [-1, REPLICAS_MAX + 1])
def test_replicas_have_bounds(replicas) -> None:
    with pytest.raises(InvalidRequest, match=f"must be from 0 to {REPLICAS_MAX}"):
        service_of(replicas=replicas)


@pytest.mark.parametrize("replicas", [0, REPLICAS_MAX])
def test_the_bounds_themselves_are_allowed(replicas) -> None:
    assert service_of(replicas=replicas).spec.replicas == replicas


def test_defaults_are_shown_and_what_is_set_stays() -> None:
    shown = with_defaults(service_of(restart_policy=RestartPolicy(delay=7)).spec)
    assert shown.task.container.stop_grace_period == 10_000_000_000
    assert (shown.task.restart_policy.delay, shown.task.restart_policy.max_attempts) == (7, 0)
    assert shown.endpoint.mode == "vip"
    assert (shown.update_config.parallelism, shown.rollback_config.order) == (1, "stop-first")
    assert shown.update_config.monitor == 5_000_000_000
    half = with_defaults(decoded(b'{"RollbackConfig":{"Parallelism":7}}')[1].spec)
    assert (half.rollback_config.parallelism, half.rollback_config.monitor) == (7, 5_000_000_000)
    assert with_defaults(decoded(b'{"Mode":{"GlobalJob":{}}}')[1].spec).update_config is None
    assert with_defaults(service_of().spec).task.restart_policy.delay == 5_000_000_000


def test_random_names_are_valid_names() -> None:
    seed = 7
    print(f"seed {seed}")
    rng = random.Random(seed)
    names = {random_name(rng) for _ in range(500)}
    assert len(names) > 300
    for name in names:
        check_service_name(name)


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("busybox", "busybox:latest"),
        ("busybox:1", "busybox:1"),
        ("library/busybox", "busybox:latest"),
        ("docker.io/library/busybox:1", "busybox:1"),
        ("index.docker.io/team/app", "team/app:latest"),
        ("team/app", "team/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("registry.example.org/library/app:2", "registry.example.org/library/app:2"),
        ("library/a/b", "library/a/b:latest"),
        ("busybox@sha256:" + "0" * 64, "busybox@sha256:" + "0" * 64),
        ("docker.io/busybox:1@sha256:" + "0" * 64, "busybox:1@sha256:" + "0" * 64),
    ],
)
def test_images_are_stored_as_docker_clients_write_them_back(typed, stored) -> None:
    assert familiar_image(typed) == stored
    assert familiar_image(stored) == stored
    service = service_of(image=typed)
    assert service.spec.task.container.image == stored
    again = updated_service(service, spec_of(image=typed), NOW_NS)
    assert again.spec_version == service.spec_version
