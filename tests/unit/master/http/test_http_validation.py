"""Specs that are well typed and yet wrong, with the sentence each is refused with."""

import pytest

from essaim_master.http.validation import check_service_name, check_service_spec
from essaim_shared.container_spec import ContainerSpec, DnsConfig
from essaim_shared.errors import InvalidRequest
from essaim_shared.spec import (
    Limits,
    Placement,
    Reservations,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
)


def check(container=None, **task):
    fields = {"image": "busybox", **(container or {})}
    check_service_spec(
        ServiceSpec(name="w", task=TaskSpec(container=ContainerSpec(**fields), **task))
    )


@pytest.mark.parametrize("name", ["a", "web", "Web-1", "a_b", "0", "a" * 63, "x--y"])
def test_names_that_can_stand_in_dns(name) -> None:
    check_service_name(name)


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "_a", "a.b", "a b", "é", "a/b", "a\n", "a" * 64, "-" * 60]
)
def test_names_that_cannot(name) -> None:
    with pytest.raises(InvalidRequest, match="name must be"):
        check_service_name(name)


@pytest.mark.parametrize(
    "image",
    [
        "busybox",
        "busybox:latest",
        "library/busybox",
        "registry.example.org:5000/team/app:v1.2-rc_3",
        "localhost/app",
        "localhost:5000/a__b/c-d.e",
        "[2001:db8::1]:5000/app",
        "busybox@sha256:" + "0" * 64,
        "busybox:1@sha256:" + "a" * 64,
        "sha256:" + "0" * 64,
    ],
)
def test_images_of_the_reference_grammar(image) -> None:
    check({"image": image})


@pytest.mark.parametrize(
    "image",
    [
        "Busybox",
        "busybox:",
        ":tag",
        "a//b",
        "/a",
        "a/",
        "busybox:lat est",
        "a@sha256:12",
        "a:b:c",
        "-a",
        "a" * 256,
        "http://a/b",
        "busybox\n",
        "a:" + "t" * 129,
    ],
)
def test_images_that_are_none(image) -> None:
    with pytest.raises(InvalidRequest, match="is not a valid repository/tag"):
        check({"image": image})


CASES = [
    ({"image": ""}, {}, "ContainerSpec: image reference must be provided"),
    ({"env": ("=x",)}, {}, "invalid environment variable"),
    ({"env": ("",)}, {}, "invalid environment variable"),
    ({"env": ("A=\0",)}, {}, "Env holds a NUL character"),
    ({"args": ("a", "\0")}, {}, "Args holds a NUL character"),
    ({"command": ("\0",)}, {}, "Command holds a NUL character"),
    ({"dir": "/\0"}, {}, "Dir holds a NUL character"),
    ({"user": "\0"}, {}, "User holds a NUL character"),
    ({"stop_grace_period": -1}, {}, "stop-grace-period cannot be negative"),
    ({"hostname": "a b"}, {}, "is not a valid hostname"),
    ({"hostname": "h" * 64}, {}, "is not a valid hostname"),
    ({"hosts": ("web",)}, {}, "it must be ADDRESS NAME"),
    ({"hosts": ("web 10.0.0.1",)}, {}, "it must be ADDRESS NAME"),
    ({"hosts": ("10.0.0.1 a\n10.0.0.2 b",)}, {}, "it must be ADDRESS NAME"),
    ({"dns_config": DnsConfig(nameservers=("ns1",))}, {}, "'ns1' is not an IP address"),
    ({"oom_score_adj": 1001}, {}, "invalid oom-score-adj 1001"),
    ({"oom_score_adj": -1001}, {}, "invalid oom-score-adj -1001"),
    ({"labels": {"": "x"}}, {}, "the name of a label cannot be empty"),
    (
        {},
        {"resources": Resources(limits=Limits(nano_cpus=999_999))},
        "invalid cpu value 0.000999999: Must be at least 0.001",
    ),
    ({}, {"resources": Resources(limits=Limits(nano_cpus=-1))}, "invalid cpu value -1e-09"),
    (
        {},
        {"resources": Resources(limits=Limits(memory_bytes=4 * 1024 * 1024 - 1))},
        "invalid memory value 4194303: Must be at least 4MiB",
    ),
    ({}, {"resources": Resources(limits=Limits(pids=-1))}, "invalid pids value -1"),
    (
        {},
        {"resources": Resources(reservations=Reservations(memory_bytes=1))},
        "invalid memory value 1",
    ),
    ({}, {"restart_policy": RestartPolicy(delay=-1)}, "restart-delay cannot be negative"),
    (
        {},
        {"restart_policy": RestartPolicy(max_attempts=-1)},
        "restart-max-attempts cannot be negative",
    ),
    (
        {},
        {"restart_policy": RestartPolicy(backoff_max=-1)},
        "restart-backoff-max cannot be negative",
    ),
    ({}, {"placement": Placement(max_replicas=-1)}, "MaxReplicas cannot be negative"),
    ({}, {"placement": Placement(constraints=("node.id=x",))}, "expected one operator"),
    ({}, {"placement": Placement(constraints=("node.id==",))}, "constraint value '' is invalid"),
    (
        {},
        {"placement": Placement(constraints=("node.color==x",))},
        "constraint key 'node.color' is unknown",
    ),
    ({}, {"force_update": -1}, "ForceUpdate cannot be negative"),
    ({}, {"stop_when_cut_off": -1}, "stop-when-cut-off cannot be negative"),
]


@pytest.mark.parametrize(("container", "task", "sentence"), CASES)
def test_each_mistake_has_its_sentence(container, task, sentence) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(container, **task)
    text = str(caught.value)
    assert sentence in text
    assert "\n" not in text


def test_a_spec_with_everything_at_its_bounds_passes() -> None:
    check(
        {
            "env": ("A=b", "HOME"),
            "hosts": ("10.0.0.1 a b", "::1 six"),
            "dns_config": DnsConfig(nameservers=("10.0.0.2", "::1")),
            "oom_score_adj": -1000,
            "hostname": "a.example-1",
            "stop_grace_period": 0,
        },
        resources=Resources(
            limits=Limits(nano_cpus=1_000_000, memory_bytes=4 * 1024 * 1024, pids=10),
            reservations=Reservations(),
        ),
        restart_policy=RestartPolicy(delay=0, max_attempts=0),
        placement=Placement(
            constraints=("node.labels.Zone == a", "engine.labels.x!=y", "NODE.ROLE==worker")
        ),
    )


def test_a_hostile_name_costs_no_time() -> None:
    """Patterns that backtrack would not end here within the time limit of the suite."""
    for hostile in ("a" * 255 + "!", "a-" * 120 + "!", "a_" * 120 + "!", "a." * 120 + "!"):
        with pytest.raises(InvalidRequest):
            check({"image": hostile})
        with pytest.raises(InvalidRequest):
            check({"hostname": hostile[-63:]})
