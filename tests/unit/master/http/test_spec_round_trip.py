"""Whatever spec is stored: a client that reads it and writes it back has changed nothing."""

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from essaim_master.http.docker_objects import service_spec_object
from essaim_master.http.service_requests import (
    created_service,
    decode_service_spec,
    updated_service,
)
from essaim_shared.container_spec import ContainerSpec, DnsConfig
from essaim_shared.ids import ServiceId
from essaim_shared.limits import REPLICAS_MAX
from essaim_shared.spec import (
    EndpointSpec,
    Limits,
    Placement,
    Platform,
    ReplicatedMode,
    Reservations,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)
WORDS = st.lists(TEXT, max_size=3).map(tuple)
LABELS = st.dictionaries(TEXT.filter(bool), TEXT, max_size=3)
COUNT = st.integers(0, 2**62)
MEMORY = st.one_of(st.just(0), st.integers(4 * 1024 * 1024, 2**62))
CPUS = st.one_of(st.just(0), st.integers(1_000_000, 2**62))
OPTIONAL_COUNT = st.one_of(st.none(), COUNT)
OURS = st.one_of(st.just(UNSET), COUNT)

CONTAINERS = st.builds(
    ContainerSpec,
    image=st.sampled_from(["busybox:latest", "team/app:1", "r.example:5000/a@sha256:" + "0" * 64]),
    labels=LABELS,
    command=WORDS,
    args=WORDS,
    hostname=st.sampled_from(["", "h", "h.example"]),
    env=st.lists(st.sampled_from(["A=b", "C=", "HOME"]), max_size=3).map(tuple),
    dir=TEXT,
    user=TEXT,
    stop_signal=st.sampled_from(["", "SIGUSR1"]),
    stop_grace_period=OPTIONAL_COUNT,
    init=st.sampled_from([None, False, True]),
    tty=st.booleans(),
    read_only=st.booleans(),
    hosts=st.lists(st.just("10.0.0.1 a"), max_size=1).map(tuple),
    dns_config=st.one_of(
        st.none(), st.builds(DnsConfig, nameservers=st.just(("10.0.0.2",)), search=WORDS)
    ),
    sysctls=LABELS,
    capability_add=st.sampled_from([(), ("CAP_NET_ADMIN",), ("ALL", "CAP_SYS_TIME")]),
    oom_score_adj=st.integers(-1000, 1000),
    isolation=st.sampled_from(["", "default"]),
)
TASKS = st.builds(
    TaskSpec,
    container=CONTAINERS,
    resources=st.one_of(
        st.none(),
        st.builds(
            Resources,
            limits=st.one_of(
                st.none(), st.builds(Limits, nano_cpus=CPUS, memory_bytes=MEMORY, pids=COUNT)
            ),
            reservations=st.one_of(
                st.none(), st.builds(Reservations, nano_cpus=CPUS, memory_bytes=MEMORY)
            ),
        ),
    ),
    restart_policy=st.one_of(
        st.none(),
        st.builds(
            RestartPolicy,
            condition=st.sampled_from(["none", "on-failure", "any"]),
            delay=OPTIONAL_COUNT,
            max_attempts=OPTIONAL_COUNT,
            backoff_max=OURS,
        ),
    ),
    placement=st.one_of(
        st.none(),
        st.builds(
            Placement,
            constraints=st.sampled_from([(), ("node.id==a", "node.labels.x!=y")]),
            max_replicas=COUNT,
            platforms=st.sampled_from([(), (Platform(architecture="amd64", os="linux"),)]),
        ),
    ),
    force_update=COUNT,
    stop_when_cut_off=OURS,
)
SPECS = st.builds(
    ServiceSpec,
    name=st.just("web"),
    labels=LABELS,
    task=TASKS,
    mode=st.builds(
        ServiceMode, replicated=st.builds(ReplicatedMode, replicas=st.integers(0, REPLICAS_MAX))
    ),
    endpoint=st.sampled_from([None, EndpointSpec(), EndpointSpec(mode="vip")]),
)


def in_other_letters(value, rng):
    """The same JSON as a client with other habits writes it: case, null for absent."""
    if not isinstance(value, dict):
        return value
    fields = {
        key if key in ("Labels", "Sysctls") else rng.choice((str, str.lower, str.upper))(key): (
            inner if key in ("Labels", "Sysctls") else in_other_letters(inner, rng)
        )
        for key, inner in value.items()
    }
    return {**fields, "Secrets": None}


def without_our_fields(fields):
    task = fields["TaskTemplate"]
    task.pop("StopWhenCutOff", None)
    task.get("RestartPolicy", {}).pop("BackoffMax", None)
    return fields


@settings(max_examples=200, deadline=None)
@given(spec=SPECS, seed=st.integers(0, 2**32))
def test_reading_and_writing_back_changes_nothing(spec, seed) -> None:
    service = created_service(spec, ServiceId("s"), 1)
    read = msgspec.json.decode(msgspec.json.encode(service_spec_object(service.spec)))
    body = in_other_letters(without_our_fields(read), random.Random(seed))
    written = decode_service_spec(msgspec.json.encode(body))
    again = updated_service(service, written, 2)
    assert again.spec == service.spec
    assert again.spec_version == service.spec_version
