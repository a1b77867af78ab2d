"""What each flag of `service update` makes of the specification that it finds.

Scalars replace, lists add and remove; nothing else changes (docker/cli,
cli/command/service/update.go).
"""

import copy

import pytest

from essaim_cli.errors import CommandFailed
from essaim_cli.service_changes import update
from essaim_cli.service_spec import is_stored, set_scale, updated_spec

IMAGE = {"Image": "img:1"}


def changed(container=None, flags=(), first_seen=None, **parts):
    spec = {
        "Name": "web",
        "Labels": {},
        "Mode": {"Replicated": {"Replicas": 1}},
        **parts,
        "TaskTemplate": {
            **parts.get("TaskTemplate", {}),
            "ContainerSpec": {**IMAGE, **(container or {})},
        },
    }
    before = copy.deepcopy(spec)
    given = update.make_context("update", [*flags, "web"]).params
    done = updated_spec(spec, given, {"FROM_CALLER": "yes"}, first_seen)
    assert spec == before, "what was read is not touched"
    return done


def container_after(container, *flags):
    return changed(container, flags)["TaskTemplate"]["ContainerSpec"]


MOUNTS = [{"Type": "bind", "Source": "/a", "Target": "/x"}, {"Type": "tmpfs", "Target": "/y"}]

IN_THE_CONTAINER = [
    ({}, ("--image", "img:2"), {"Image": "img:2"}),
    ({"Args": ["a"]}, ("--args", "b 'c d'"), {"Args": ["b", "c d"]}),
    ({"Args": ["a"]}, ("--args", ""), {"Args": []}),
    ({"Env": ["A=1", "B=2"]}, ("--env-rm", "A", "--env-add", "B=3"), {"Env": ["B=3"]}),
    ({"Env": ["A=1"]}, ("--env-add", "FROM_CALLER"), {"Env": ["A=1", "FROM_CALLER=yes"]}),
    ({"Labels": {"a": "1", "b": "2"}}, ("--container-label-rm", "a"), {"Labels": {"b": "2"}}),
    ({"Groups": ["a", "b"]}, ("--group-rm", "a", "--group-add", "c"), {"Groups": ["b", "c"]}),
    ({"Mounts": MOUNTS}, ("--mount-rm", "/x"), {"Mounts": MOUNTS[1:]}),
    (
        {"Mounts": MOUNTS},
        ("--mount-add", "type=bind,source=/b,target=/x"),
        {"Mounts": [{"Type": "bind", "Source": "/b", "Target": "/x"}, MOUNTS[1]]},
    ),
    (
        {"Mounts": MOUNTS},
        ("--mount-rm", "/x", "--mount-add", "type=bind,source=/b,target=/x"),
        {"Mounts": [MOUNTS[1], {"Type": "bind", "Source": "/b", "Target": "/x"}]},
    ),
    (
        {"DNSConfig": {"Nameservers": ["1.1.1.1"], "Search": ["lan"]}},
        ("--dns-rm", "1.1.1.1", "--dns-add", "8.8.8.8", "--dns-option-add", "ndots:1"),
        {"DNSConfig": {"Nameservers": ["8.8.8.8"], "Search": ["lan"], "Options": ["ndots:1"]}},
    ),
    ({"Hosts": ["10.0.0.1 a b", "10.0.0.2 a"]}, ("--host-rm", "a"), {"Hosts": ["10.0.0.1 b"]}),
    (
        {"Hosts": ["10.0.0.1 a b", "10.0.0.2 a"]},
        ("--host-rm", "a:10.0.0.2"),
        {"Hosts": ["10.0.0.1 a b"]},
    ),
    ({"Sysctls": {"a": "1", "b": "2"}}, ("--sysctl-rm", "a"), {"Sysctls": {"b": "2"}}),
    (
        {"Ulimits": [{"Name": "core", "Soft": 1, "Hard": 1}]},
        ("--ulimit-add", "core=2"),
        {"Ulimits": [{"Name": "core", "Soft": 2, "Hard": 2}]},
    ),
    ({"CapabilityDrop": ["CAP_A"]}, ("--cap-add", "a"), {"CapabilityDrop": []}),
    ({"CapabilityAdd": ["CAP_A"]}, ("--cap-drop", "a"), {"CapabilityAdd": []}),
    (
        {"CapabilityAdd": ["CAP_A"]},
        ("--cap-add", "RESET", "--cap-add", "b"),
        {"CapabilityAdd": ["CAP_B"]},
    ),
    ({"TTY": True}, ("--tty=false",), {"TTY": False}),
    (
        {"Healthcheck": {"Test": ["NONE"]}},
        ("--health-cmd", "x"),
        {"Healthcheck": {"Test": ["CMD-SHELL", "x"]}},
    ),
    (
        {"Healthcheck": {"Test": ["NONE"]}},
        ("--health-retries", "2"),
        {"Healthcheck": {"Retries": 2}},
    ),
    (
        {"Healthcheck": {"Test": ["CMD", "x"], "Retries": 2}},
        ("--no-healthcheck",),
        {"Healthcheck": {"Test": ["NONE"]}},
    ),
    (
        {"Probes": {"Readiness": {"TCP": {"Port": 1}}}},
        ("--readiness", "tcp:2"),
        {"Probes": {"Readiness": {"TCP": {"Port": 2}}}},
    ),
    (
        {"Probes": {"Readiness": {"TCP": {"Port": 1}}}},
        ("--readiness", ""),
        {"Probes": {"Readiness": None}},
    ),
    ({"ShmSize": 1}, ("--shm-size", ""), {"ShmSize": None}),
    ({}, ("--shm-size", ""), {}),
    ({"Devices": [{"PathOnHost": "/dev/a"}]}, ("--device-rm", "/dev/a"), {"Devices": []}),
]


@pytest.mark.parametrize(("before", "flags", "after"), IN_THE_CONTAINER, ids=str)
def test_a_flag_changes_what_it_names_and_keeps_the_rest(before, flags, after):
    done = container_after({"User": "kept", **before}, *flags)
    wanted = {**IMAGE, "User": "kept", **before, **after}
    assert {name: value for name, value in done.items() if value != []} == {
        name: value for name, value in wanted.items() if value != []
    }


HOST_PORT = {"TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}


@pytest.mark.parametrize(
    ("ports", "flags", "targets"),
    [
        ([HOST_PORT], ("--publish-rm", "80"), []),
        ([HOST_PORT], ("--publish-rm", "80/udp"), [80]),
        ([HOST_PORT], ("--publish-rm", "target=80,mode=ingress"), [80]),
        ([HOST_PORT], ("--publish-add", "target=81,mode=host"), [80, 81]),
        ([HOST_PORT], ("--publish-add", "target=80,published=8080,mode=host"), [80]),
    ],
)
def test_ports_are_removed_by_their_target(ports, flags, targets):
    done = changed(flags=flags, EndpointSpec={"Ports": ports})
    assert [port["TargetPort"] for port in done["EndpointSpec"]["Ports"]] == targets


@pytest.mark.parametrize(
    ("parts", "flags", "path", "after"),
    [
        ({"Labels": {"a": "1"}}, ("--label-rm", "a", "--label-add", "b=2"), "Labels", {"b": "2"}),
        ({"UpdateConfig": {"Parallelism": 4}}, ("--update-delay", "1s"), "UpdateConfig",
         {"Parallelism": 4, "Delay": 1_000_000_000}),
        ({"UpdateConfig": {}}, ("--update-order", "start-first"), "UpdateConfig",
         {"Order": "start-first"}),
        ({"UpdateConfig": {"Steps": [5, 100]}}, ("--update-steps", ""), "UpdateConfig",
         {"Steps": None}),
        ({}, ("--replicas", "4"), "Mode", {"Replicated": {"Replicas": 4}}),
        ({"Mode": {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 2}}},
         ("--replicas", "4", "--max-concurrent", "3"), "Mode",
         {"ReplicatedJob": {"MaxConcurrent": 3, "TotalCompletions": 4}}),
        ({"Schedule": {"Expression": "@daily"}}, ("--schedule-suspend",), "Schedule",
         {"Expression": "@daily", "Suspended": True}),
        ({"Schedule": {"Expression": "@daily", "Suspended": True}}, ("--schedule-suspend=false",),
         "Schedule", {"Expression": "@daily", "Suspended": False}),
        ({"Schedule": {"Expression": "@daily"}}, ("--schedule", ""), "Schedule", None),
    ],
)  # fmt: skip
def test_the_service_around_the_container(parts, flags, path, after):
    assert changed(flags=flags, **parts)[path] == after


@pytest.mark.parametrize(
    ("parts", "flags", "said"),
    [
        ({"Mode": {"Global": {}}}, ("--replicas", "2"), "replicas can only be used with"),
        ({}, ("--max-concurrent", "2"), "max-concurrent can only be used with replicated-job"),
        ({"Mode": {"GlobalJob": {}}}, ("--update-delay", "1s"),
         "update and rollback configuration is not supported for jobs"),
        ({}, ("--time-zone", "UTC"), "give --schedule too"),
        ({}, ("--no-healthcheck", "--health-cmd", "x"),
         "--no-healthcheck conflicts with --health-* options"),
        ({}, ("--log-opt", "a=b"), "give --log-driver too"),
        ({}, ("--mount-add", "type=tmpfs,dst=/a", "--mount-add", "source=v,dst=/a"),
         "duplicate mount point: /a"),
        ({}, ("--generic-resource-rm", "gpu"),
         "could not find generic-resource `gpu` to remove it"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit_the_service_are_refused(parts, flags, said):
    with pytest.raises(CommandFailed, match=said.replace("*", r"\*")):
        changed(flags=flags, **parts)


def test_a_change_made_again_asks_for_nothing_twice():
    """Others wrote in between, or an answer was lost: the spec was read a second time."""
    first = {"TaskTemplate": {"ForceUpdate": 3}}
    forced = changed(flags=("--force",), first_seen=first, TaskTemplate={"ForceUpdate": 4})
    assert forced["TaskTemplate"]["ForceUpdate"] == 4
    again = changed(flags=("--generic-resource-rm", "gpu"), first_seen=first)
    assert again["TaskTemplate"]["Resources"]["Reservations"]["GenericResources"] == []


def test_scale_is_for_replicated_services_and_jobs():
    job = {"Mode": {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 2}}}
    set_scale(job, 9)
    assert job["Mode"]["ReplicatedJob"] == {"MaxConcurrent": 2, "TotalCompletions": 9}
    words = "scale can only be used with replicated or replicated-job mode"
    for mode in ("Global", "GlobalJob"):
        with pytest.raises(CommandFailed, match=words):
            set_scale({"Mode": {mode: {}}}, 1)


def full(**container):
    template = {"ContainerSpec": {"Image": "img:latest@sha256:0", **container}}
    return {"Name": "web", "Labels": {}, "Mode": {"Replicated": {"Replicas": 1}},
            "TaskTemplate": template}  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "sent", "is_same"),
    [
        (full(), {**full(Image="img"), "Mode": {"Replicated": {}}}, True),
        (full(), full(Image="img:2"), False),
        (full(), full(TTY=True), False),
        (full(TTY=True), full(TTY=False), False),
        (full(), full(Env=[], Labels={}, Healthcheck=None, DNSConfig={}, Privileged=None), True),
        (full(Healthcheck={"Test": ["NONE"]}), full(), False),
        (
            full(Mounts=[{"Target": "/a"}]),
            full(Mounts=[{"Target": "/a", "Type": "volume", "ReadOnly": False}]),
            True,
        ),
        (full(Mounts=[{"Target": "/a"}]), full(), False),
        (full(Args=["a", "b"]), full(Args=["a"]), False),
        (full(), {**full(), "Mode": {"Replicated": {"Replicas": 0}}}, False),
        (full(), full(Mounts="nonsense"), False),
    ],
)
def test_a_stored_spec_is_recognized_behind_the_masters_defaults(stored, sent, is_same):
    assert is_stored(stored, sent) is is_same
