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
from essaim_shared.container_spec import (
    BindOptions,
    ContainerSpec,
    Device,
    DnsConfig,
    ExecAction,
    HealthConfig,
    HttpAction,
    Mount,
    Privileges,
    Probe,
    Probes,
    TcpAction,
    TmpfsOptions,
    Ulimit,
    VolumeOptions,
)
from essaim_shared.ids import ServiceId
from essaim_shared.limits import REPLICAS_MAX
from essaim_shared.spec import (
    DiscreteResource,
    EndpointSpec,
    GenericResource,
    GlobalJobMode,
    GlobalMode,
    Limits,
    LogDriver,
    NetworkAttachment,
    Placement,
    PlacementPreference,
    Platform,
    PortConfig,
    ReplicatedJobMode,
    ReplicatedMode,
    Reservations,
    Resources,
    RestartPolicy,
    Schedule,
    ServiceMode,
    ServiceSpec,
    Spread,
    TaskSpec,
    UpdateConfig,
)

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)
WORDS = st.lists(TEXT, max_size=3).map(tuple)
LABELS = st.dictionaries(TEXT.filter(bool), TEXT, max_size=3)
COUNT = st.integers(0, 2**62)
MEMORY = st.one_of(st.just(0), st.integers(4 * 1024 * 1024, 2**62))
CPUS = st.one_of(st.just(0), st.integers(1_000_000, 2**62))
OPTIONAL_COUNT = st.one_of(st.none(), COUNT)
OURS = st.one_of(st.just(UNSET), COUNT)


def ours_of(*values):
    return st.sampled_from([UNSET, *values])


MOUNTS = st.lists(
    st.sampled_from(
        [
            Mount(type="bind", source="/a", target="/b", bind_options=BindOptions()),
            Mount(source="data", target="/data", volume_options=VolumeOptions(no_copy=True)),
            Mount(target="/anonymous"),
            Mount(type="tmpfs", target="/run", tmpfs_options=TmpfsOptions(size_bytes=9)),
            Mount(type="image", source="assets", target="/assets", read_only=True),
        ]
    ),
    unique_by=lambda mount: mount.target,
    max_size=4,
).map(tuple)
PROBES = Probes(
    startup=Probe(exec_=ExecAction(command=("true",))),
    readiness=Probe(http=HttpAction(port=80, headers={"A": "b"}), success_threshold=2),
    liveness=Probe(tcp=TcpAction(port=80), period=2_000_000_000),
)
UPDATES = st.one_of(
    st.none(),
    st.builds(
        UpdateConfig,
        parallelism=COUNT,
        delay=COUNT,
        failure_action=st.sampled_from(["", "pause", "continue"]),
        monitor=OPTIONAL_COUNT,
        max_failure_ratio=st.floats(0, 1),
        order=st.sampled_from(["", "stop-first", "start-first"]),
        progress_deadline=OURS,
    ),
)
PORTS = st.sampled_from(
    [
        (),
        (PortConfig(target_port=80, publish_mode="host"),),
        (PortConfig(target_port=53, published_port=53, protocol="udp", publish_mode="host"),),
    ]
)
INGRESS_PORTS = st.sampled_from(
    [
        (PortConfig(target_port=80), PortConfig(target_port=80, published_port=8080)),
        (PortConfig(name="dns", target_port=53, published_port=53, protocol="udp"),),
        (PortConfig(target_port=9, published_port=9, protocol="sctp", publish_mode=""),),
    ]
)
NETWORKS = st.lists(
    st.sampled_from(
        [
            NetworkAttachment(target="n1"),
            NetworkAttachment(target="n2", aliases=("www", "a.b_c")),
            NetworkAttachment(target="n3", aliases=("A" * 63,)),
        ]
    ),
    unique_by=lambda attachment: attachment.target,
    max_size=3,
).map(tuple)
JOBS = st.sampled_from(
    [
        ServiceMode(global_job=GlobalJobMode()),
        ServiceMode(replicated_job=ReplicatedJobMode()),
        ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=2, total_completions=9)),
    ]
)

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
    mounts=MOUNTS,
    healthcheck=st.sampled_from([None, HealthConfig(test=("CMD", "x"), retries=3)]),
    privileges=st.sampled_from([None, Privileges(no_new_privileges=True)]),
    ulimits=st.sampled_from([(), (Ulimit(name="nofile", soft=1, hard=-1),)]),
    devices=ours_of((Device(path_on_host="/dev/fuse"),), ()),
    privileged=ours_of(True, False),
    security_options=ours_of(("label=disable",)),
    shm_size=ours_of(1 << 20),
    pid_mode=ours_of("host", ""),
    ipc_mode=ours_of("shareable"),
    cgroup_parent=ours_of("/essaim"),
    pull_policy=ours_of("always"),
    probes=ours_of(PROBES, Probes()),
    pre_stop=ours_of(ExecAction(command=("sync",))),
)
GPUS = (GenericResource(discrete=DiscreteResource(kind="gpu", resource_value=2)),)
ZONES = PlacementPreference(spread=Spread(spread_descriptor="node.labels.zone"))
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
                st.none(),
                st.builds(
                    Reservations,
                    nano_cpus=CPUS,
                    memory_bytes=MEMORY,
                    generic_resources=st.sampled_from([(), GPUS]),
                ),
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
            preferences=st.sampled_from([(), (ZONES,)]),
            platforms=st.sampled_from([(), (Platform(architecture="amd64", os="linux"),)]),
        ),
    ),
    log_driver=st.sampled_from([None, LogDriver(name="local", driver_options={"max-size": "1m"})]),
    networks=NETWORKS,
    runtime=st.sampled_from(["", "container"]),
    force_update=COUNT,
    stop_when_cut_off=OURS,
)
SERVICES = st.builds(
    ServiceSpec,
    name=st.just("web"),
    labels=LABELS,
    task=TASKS,
    mode=st.one_of(
        st.just(ServiceMode(global_=GlobalMode())),
        st.builds(
            ServiceMode,
            replicated=st.builds(ReplicatedMode, replicas=st.integers(0, REPLICAS_MAX)),
        ),
    ),
    update_config=UPDATES,
    rollback_config=UPDATES,
    endpoint=st.one_of(
        st.none(),
        st.builds(
            EndpointSpec,
            mode=st.sampled_from(["", "vip", "dnsrr"]),
            ports=PORTS,
            affinity=ours_of("client-ip", ""),
            force_ports=ours_of(True, False),
        ),
        st.builds(
            EndpointSpec,
            mode=st.sampled_from(["", "vip"]),
            ports=INGRESS_PORTS,
            affinity=ours_of("client-ip"),
        ),
    ),
)
JOB_SERVICES = st.builds(ServiceSpec, name=st.just("web"), task=TASKS, mode=JOBS)
CRON_SERVICES = st.builds(
    ServiceSpec,
    name=st.just("web"),
    task=TASKS,
    mode=st.just(ServiceMode(replicated_job=ReplicatedJobMode())),
    schedule=st.just(Schedule(expression="@hourly", is_suspended=True)),
)
SPECS = st.one_of(SERVICES, JOB_SERVICES, CRON_SERVICES)

OURS_ALONE = frozenset(
    [
        *(
            "Affinity",
            "BackoffMax",
            "CgroupParent",
            "ForcePorts",
            "Devices",
            "IpcMode",
            "PidMode",
            "PreStop",
            "Privileged",
        ),
        *("Probes", "ProgressDeadline", "PullPolicy", "Schedule", "SecurityOpt", "ShmSize"),
        *("Steps", "StopWhenCutOff"),
    ]
)
"""What a docker client drops from what it reads, since its own types have no such fields."""

FREE_NAMES = frozenset(["Labels", "Sysctls", "Options"])
"""Objects whose keys are the user's."""


def in_other_letters(value, rng):
    """The same JSON as a client with other habits writes it: case, null for absent."""
    if not isinstance(value, dict):
        return value
    fields = {
        rng.choice((str, str.lower, str.upper))(key): (
            inner if key in FREE_NAMES else in_other_letters(inner, rng)
        )
        for key, inner in value.items()
    }
    return {**fields, "Secrets": None}


def without_our_fields(value):
    if isinstance(value, list):
        return [without_our_fields(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        key: inner if key in FREE_NAMES else without_our_fields(inner)
        for key, inner in value.items()
        if key not in OURS_ALONE
    }


@settings(max_examples=200, deadline=None)
@given(spec=SPECS, seed=st.integers(0, 2**32))
def test_reading_and_writing_back_changes_nothing(spec, seed) -> None:
    service = created_service(spec, ServiceId("s"), 1)
    read = msgspec.json.decode(msgspec.json.encode(service_spec_object(service.spec)))
    body = in_other_letters(without_our_fields(read), random.Random(seed))
    written = decode_service_spec(msgspec.json.encode(body))
    again = updated_service(service, written, 2)
    assert again.spec == service.spec
    assert again.revision == service.revision
    runs_anew = spec.mode.is_job and not spec.schedule
    assert again.spec_version == service.spec_version + runs_anew
