"""Filters: what is taken, what each matches, what is refused."""

import msgspec
import pytest

from essaim_master.http.filters import (
    SERVICE_FILTERS,
    decode_filters,
    network_matcher,
    node_matcher,
    service_matcher,
    task_matcher,
)
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.errors import InvalidRequest
from essaim_shared.objects import Network, NodeDescription, NodeObject, Service, Task
from essaim_shared.spec import (
    GlobalJobMode,
    GlobalMode,
    NodeSpec,
    ReplicatedJobMode,
    ReplicatedMode,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from essaim_shared.task_state import TaskState

TEMPLATE = TaskSpec(container=ContainerSpec(image="x"))
SERVICE = Service(
    id="abc123",
    spec=ServiceSpec(name="web-front", labels={"tier": "front", "empty": ""}, task=TEMPLATE),
    created_ns=1,
    updated_ns=1,
)
TASK = Task(
    id="task1",
    service_id="abc123",
    service_name="web",
    service_labels={"tier": "front"},
    slot=2,
    spec=TEMPLATE,
    spec_version=1,
    node_id="node1",
    desired_state=TaskState.RUNNING,
    created_ns=1,
    updated_ns=1,
)
NODE = NodeObject(
    id="node1", spec=NodeSpec(name="h1", labels={"zone": "a"}), created_ns=1, updated_ns=1
)
DESCRIPTION = NodeDescription(
    hostname="h1.lab",
    address="10.0.0.1",
    architecture="amd64",
    nano_cpus=1,
    memory_bytes=1,
    engine_version="20",
    engine_labels={"storage": "ssd"},
)
NETWORK = Network(
    id="net1",
    name="default",
    vni=1,
    subnet="10.0.0.0/24",
    mtu=1450,
    labels={"team": "a"},
    created_ns=1,
)


def test_both_spellings_are_taken() -> None:
    assert decode_filters('{"label":{"a=b":true,"c":true}}', SERVICE_FILTERS) == {
        "label": ["a=b", "c"]
    }
    assert decode_filters('{"label":["a=b"],"id":["x"]}', SERVICE_FILTERS) == {
        "label": ["a=b"],
        "id": ["x"],
    }


@pytest.mark.parametrize("text", ["", "{}", '{"id":{}}', '{"id":[]}'])
def test_no_filter_at_all(text) -> None:
    assert decode_filters(text, SERVICE_FILTERS) == {}


def test_an_unknown_filter_is_refused_as_docker_does() -> None:
    with pytest.raises(InvalidRequest, match="invalid filter 'desired-state'"):
        decode_filters('{"desired-state":["running"]}', SERVICE_FILTERS)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[]",
        '"id"',
        '{"id":"x"}',
        '{"id":{"x":1}}',
        '{"id":[1]}',
        "\ud800",
        "[" * 60_000,
        " " * 65_537,
    ],
)
def test_malformed_filters_are_refused(text) -> None:
    with pytest.raises(InvalidRequest, match="invalid filter"):
        decode_filters(text, SERVICE_FILTERS)


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        ({}, True),
        ({"id": ["abc"]}, True),
        ({"id": ["bc"]}, False),
        ({"name": ["web"]}, True),
        ({"name": ["front"]}, False),
        ({"name": ["nope", "web-"]}, True),
        ({"label": ["tier"]}, True),
        ({"label": ["tier=front"]}, True),
        ({"label": ["tier=back"]}, False),
        ({"label": ["tier=front", "other"]}, False),
        ({"label": ["empty"]}, True),
        ({"label": ["empty="]}, True),
        ({"mode": ["replicated"]}, True),
        ({"mode": ["global"]}, False),
        ({"mode": ["global", "replicated"]}, True),
        ({"runtime": ["container"]}, True),
        ({"runtime": ["plugin"]}, False),
        ({"id": ["abc"], "name": ["nope"]}, False),
    ],
)
def test_services(filters, matches) -> None:
    assert service_matcher(filters)(SERVICE) is matches


MODES = {
    "replicated": ServiceMode(replicated=ReplicatedMode(replicas=1)),
    "global": ServiceMode(global_=GlobalMode()),
    "replicated-job": ServiceMode(replicated_job=ReplicatedJobMode()),
    "global-job": ServiceMode(global_job=GlobalJobMode()),
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("wanted", MODES)
def test_each_service_has_one_mode(name, wanted) -> None:
    spec = msgspec.structs.replace(SERVICE.spec, mode=MODES[name])
    service = msgspec.structs.replace(SERVICE, spec=spec)
    assert service_matcher({"mode": [wanted]})(service) is (name == wanted)


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        ({}, True),
        ({"id": ["task"]}, True),
        ({"id": ["ask"]}, False),
        ({"name": ["web.2"]}, True),
        ({"name": ["web.2.task1"]}, True),
        ({"name": ["web.3"]}, False),
        ({"service": ["abc123"]}, True),
        ({"service": ["abc"]}, False),
        ({"node": ["node1", "node2"]}, True),
        ({"node": ["node2"]}, False),
        ({"desired-state": ["running"]}, True),
        ({"desired-state": ["Running"]}, True),
        ({"desired-state": ["shutdown"]}, False),
        ({"desired-state": ["shutdown", "running"]}, True),
        ({"label": ["tier=front"]}, True),
        ({"label": ["tier=back"]}, False),
        ({"_up-to-date": ["true"]}, False),
        ({"_up-to-date": ["false"]}, True),
        ({"runtime": ["container"]}, True),
    ],
)
def test_tasks_of_an_older_template(filters, matches) -> None:
    assert task_matcher(filters, lambda task: False)(TASK) is matches


def test_an_up_to_date_task_passes_the_filter() -> None:
    assert task_matcher({"_up-to-date": ["1"]}, lambda task: True)(TASK)


def test_an_unscheduled_task_is_on_no_node() -> None:
    task = Task(
        **{name: getattr(TASK, name) for name in TASK.__struct_fields__ if name != "node_id"}
    )
    assert not task_matcher({"node": ["node1"]}, lambda task: True)(task)


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        ({}, True),
        ({"id": ["node"]}, True),
        ({"name": ["h1"]}, True),
        ({"name": ["lab"]}, False),
        ({"label": ["storage=ssd"]}, True),
        ({"label": ["zone=a"]}, False),
        ({"node.label": ["zone=a"]}, True),
        ({"node.label": ["storage=ssd"]}, False),
        ({"role": ["manager"]}, True),
        ({"role": ["worker"]}, False),
        ({"membership": ["accepted"]}, True),
        ({"membership": ["pending"]}, False),
    ],
)
def test_nodes(filters, matches) -> None:
    assert node_matcher(filters)(NODE, DESCRIPTION, "manager") is matches


def test_a_node_that_never_registered_goes_by_its_given_name() -> None:
    assert node_matcher({"name": ["h1"]})(NODE, None, "worker")
    assert not node_matcher({"label": ["storage"]})(NODE, None, "worker")


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        ({}, True),
        ({"name": ["faul"]}, True),
        ({"name": ["other"]}, False),
        ({"driver": ["overlay"]}, True),
        ({"driver": ["bridge"]}, False),
        ({"scope": ["swarm"]}, True),
        ({"scope": ["local"]}, False),
        ({"type": ["builtin"]}, True),
        ({"type": ["custom"]}, False),
        ({"dangling": ["true"]}, False),
        ({"dangling": ["0"]}, True),
        ({"dangling": ["true", "false"]}, True),
        ({"label": ["x"]}, False),
        ({"label": ["team=a"]}, True),
        ({"label": ["team", "x"]}, False),
        ({"label!": ["team=b"]}, True),
        ({"label!": ["team"]}, False),
    ],
)
def test_networks(filters, matches) -> None:
    assert network_matcher(filters, lambda network: False)(NETWORK) is matches


def test_a_users_network_is_custom_and_may_dangle() -> None:
    other = msgspec.structs.replace(NETWORK, name="back")
    assert network_matcher({"type": ["custom"], "dangling": ["1"]}, lambda network: True)(other)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: service_matcher({"mode": ["some"]}), "invalid filter 'mode=some'"),
        (lambda: network_matcher({"type": ["odd"]}, bool), "invalid filter 'type=odd'"),
        (lambda: network_matcher({"dangling": ["x"]}, bool), "invalid filter 'dangling=x'"),
        (lambda: node_matcher({"role": ["boss"]}), "invalid filter 'role=boss'"),
        (lambda: node_matcher({"membership": ["x"]}), "invalid filter 'membership=x'"),
        (
            lambda: task_matcher({"desired-state": ["runing"]}, bool),
            "invalid filter 'desired-state=runing'",
        ),
        (
            lambda: task_matcher({"_up-to-date": ["maybe"]}, bool),
            "invalid filter '_up-to-date=maybe'",
        ),
    ],
)
def test_a_value_that_is_none_of_the_filters_is_refused(make, sentence) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        make()
