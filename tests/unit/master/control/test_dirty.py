"""What becomes of a running task when its service's template is another."""

import msgspec
import pytest

from essaim_master.control.dirty import Verdict, verdict_on
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.ids import NodeId, ServiceId, TaskId
from essaim_shared.objects import Service, Task
from essaim_shared.spec import (
    DiscreteResource,
    EndpointSpec,
    GenericResource,
    Limits,
    LogDriver,
    Placement,
    PortConfig,
    Reservations,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
)
from essaim_shared.task_state import TaskState

GPU = GenericResource(discrete=DiscreteResource(kind="gpu", resource_value=1))
LIMITED = Limits(nano_cpus=10**9, memory_bytes=1 << 26, pids=100)
TEMPLATE = TaskSpec(
    container=ContainerSpec(image="img:1", env=("A=1",)),
    resources=Resources(limits=LIMITED, swap_bytes=0),
)


def container(**changes):
    return {"container": msgspec.structs.replace(TEMPLATE.container, **changes)}


def limits(**changes):
    return {
        "resources": Resources(limits=msgspec.structs.replace(LIMITED, **changes), swap_bytes=0)
    }


def reserving(**reservations):
    return {
        "resources": Resources(
            limits=LIMITED, reservations=Reservations(**reservations), swap_bytes=0
        )
    }


def verdict(template, *, ports=(), task_ports=(), is_running=True, fits=True, version=2):
    service = Service(
        id=ServiceId("s"),
        spec=ServiceSpec(name="web", task=template, endpoint=EndpointSpec(ports=ports)),
        spec_version=version,
        created_ns=1,
        updated_ns=1,
    )
    task = Task(
        id=TaskId("t"),
        service_id=service.id,
        service_name="web",
        slot=1,
        spec=TEMPLATE,
        spec_version=1,
        node_id=NodeId("n1"),
        desired_state=TaskState.RUNNING,
        created_ns=1,
        updated_ns=1,
        ports=task_ports,
    )
    return verdict_on(service, task, is_running=is_running, fits=lambda _: fits)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Verdict.ADOPT),
        ({"restart_policy": RestartPolicy(max_attempts=3)}, Verdict.ADOPT),
        ({"placement": Placement(constraints=("node.role==worker",))}, Verdict.ADOPT),
        (container(stop_grace_period=10**9), Verdict.ADOPT),
        (container(pull_policy="always"), Verdict.ADOPT),
        (reserving(nano_cpus=10**9), Verdict.ADOPT),
        (reserving(memory_bytes=1 << 25), Verdict.ADOPT),
        (limits(nano_cpus=2 * 10**9), Verdict.RESIZE),
        (limits(memory_bytes=1 << 27), Verdict.RESIZE),
        (limits(pids=200), Verdict.RESIZE),
        (limits(pids=0), Verdict.RESIZE),
        ({"resources": Resources(limits=LIMITED, swap_bytes=1 << 20)}, Verdict.RESIZE),
        (limits(nano_cpus=0), Verdict.REPLACE),
        (limits(memory_bytes=0), Verdict.REPLACE),
        ({"resources": Resources(limits=LIMITED)}, Verdict.REPLACE),
        ({"resources": None}, Verdict.REPLACE),
        (
            {"resources": Resources(limits=LIMITED, swap_bytes=0, memory_swappiness=10)},
            Verdict.REPLACE,
        ),
        (reserving(generic_resources=(GPU,)), Verdict.REPLACE),
        ({"force_update": 1}, Verdict.REPLACE),
        ({"log_driver": LogDriver(name="none")}, Verdict.REPLACE),
        ({"stop_when_cut_off": 10**9}, Verdict.REPLACE),
        (container(image="img:2"), Verdict.REPLACE),
        (container(env=("A=2",)), Verdict.REPLACE),
        (container(stop_signal="SIGINT"), Verdict.REPLACE),
        ({**container(image="img:2"), **limits(pids=200)}, Verdict.REPLACE),
    ],
)
def test_what_a_change_of_the_template_takes(change, expected):
    assert verdict(msgspec.structs.replace(TEMPLATE, **change)) is expected


def test_same_version_is_clean_without_a_look_at_the_template():
    other = msgspec.structs.replace(TEMPLATE, force_update=1)
    assert verdict(other, version=1) is Verdict.CLEAN


@pytest.mark.parametrize(
    "change", [{"restart_policy": RestartPolicy(max_attempts=3)}, limits(pids=200)]
)
def test_a_task_that_does_not_run_or_whose_node_does_not_fit_is_replaced(change):
    template = msgspec.structs.replace(TEMPLATE, **change)
    assert verdict(template, is_running=False) is Verdict.REPLACE
    assert verdict(template, fits=False) is Verdict.REPLACE


def test_a_task_of_the_same_template_is_adopted_even_before_it_runs():
    assert verdict(TEMPLATE, is_running=False, fits=False) is Verdict.ADOPT


def port(published, target=80, mode="host"):
    return PortConfig(target_port=target, published_port=published, publish_mode=mode)


@pytest.mark.parametrize(
    ("wanted", "present", "expected"),
    [
        ((port(8080),), (port(8080),), Verdict.ADOPT),
        ((port(0),), (port(32768),), Verdict.ADOPT),
        ((port(8081),), (port(8080),), Verdict.REPLACE),
        ((port(0, target=81),), (port(32768),), Verdict.REPLACE),
        ((), (port(8080),), Verdict.REPLACE),
        ((port(8080),), (), Verdict.REPLACE),
        ((port(8080, mode="ingress"),), (), Verdict.ADOPT),
    ],
)
def test_ports_of_the_node_are_fixed_when_a_container_starts(wanted, present, expected):
    assert verdict(TEMPLATE, ports=wanted, task_ports=present) is expected
