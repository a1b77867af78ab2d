"""Objects in Docker's shapes, to the last field."""

import msgspec

from essaim_master.http.docker_objects import (
    manager_statuses,
    node_object,
    service_object,
    service_spec_object,
    service_status_object,
    task_object,
)
from essaim_master.state.cluster import LeadershipView, Member
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.objects import (
    Attachment,
    CronRun,
    CronStatus,
    EnginePlugin,
    Network,
    NodeDescription,
    NodeObject,
    NodeStatus,
    Service,
    Task,
    TaskStatus,
)
from essaim_shared.spec import (
    DiscreteResource,
    GenericResource,
    GlobalJobMode,
    GlobalMode,
    NamedResource,
    NodeSpec,
    PortConfig,
    ReplicatedJobMode,
    ReplicatedMode,
    RestartPolicy,
    Schedule,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from essaim_shared.task_state import TaskState

SECOND_NS = 1_000_000_000
CREATED_NS = 1_700_000_000 * SECOND_NS + 5

SPEC = ServiceSpec(
    name="web",
    task=TaskSpec(container=ContainerSpec(image="x"), restart_policy=RestartPolicy(backoff_max=9)),
    mode=ServiceMode(replicated=ReplicatedMode(replicas=0)),
)
SERVICE = Service(id="s1", spec=SPEC, created_ns=CREATED_NS, updated_ns=CREATED_NS)
NETWORK = Network(id="n1", name="default", vni=7, subnet="10.9.0.0/20", mtu=1450, created_ns=0)


def task_of(desired=TaskState.RUNNING, **fields):
    return Task(
        id=fields.pop("id", "t1"),
        service_id="s1",
        service_name="web",
        slot=fields.pop("slot", 3),
        spec=SPEC.task,
        spec_version=1,
        desired_state=desired,
        created_ns=CREATED_NS,
        updated_ns=CREATED_NS,
        **fields,
    )


def as_json(value):
    return msgspec.json.decode(msgspec.json.encode(value))


def test_a_spec_shows_what_clients_index_unasked() -> None:
    assert as_json(service_spec_object(SPEC)) == {
        "Name": "web",
        "Labels": {},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "x"},
            "RestartPolicy": {"Condition": "any", "BackoffMax": 9},
            "ForceUpdate": 0,
            "Runtime": "container",
        },
        "Mode": {"Replicated": {"Replicas": 0}},
    }


def test_a_service_has_no_previous_spec_and_no_update_status_before_its_first_update() -> None:
    shown = as_json(service_object(SERVICE, 12))
    assert set(shown) == {
        *("ID", "Version", "CreatedAt", "UpdatedAt", "Spec", "Endpoint"),
        "Revision",
    }
    assert shown["Version"] == {"Index": 12}
    assert shown["CreatedAt"] == "2023-11-14T22:13:20.000000005Z"


def test_a_task_that_nobody_has_seen_yet() -> None:
    shown = as_json(task_object(task_of(), None, 4, {}))
    assert "NodeID" not in shown
    assert shown["Status"] == {
        "Timestamp": "2023-11-14T22:13:20.000000005Z",
        "State": "new",
        "Message": "created",
        "PortStatus": {},
    }


def test_a_task_that_failed_on_its_node() -> None:
    task = task_of(
        TaskState.SHUTDOWN,
        node_id="node1",
        attachments=(
            Attachment(network_id="n1", address="10.9.0.7"),
            Attachment(network_id="gone", address="10.8.0.7"),
        ),
    )
    status = TaskStatus(
        state=TaskState.FAILED,
        timestamp_ns=CREATED_NS + SECOND_NS,
        message="started",
        err="task: non-zero exit (3)",
        container_id="c" * 64,
        pid=99,
        exit_code=3,
    )
    shown = as_json(task_object(task, status, 8, {"n1": NETWORK}))
    assert shown["Status"] == {
        "Timestamp": "2023-11-14T22:13:21.000000005Z",
        "State": "failed",
        "Message": "started",
        "Err": "task: non-zero exit (3)",
        "PortStatus": {},
        "ContainerStatus": {"ContainerID": "c" * 64, "PID": 99, "ExitCode": 3},
    }
    assert shown["UpdatedAt"] == "2023-11-14T22:13:21.000000005Z"
    assert (shown["DesiredState"], shown["NodeID"], shown["Slot"]) == ("shutdown", "node1", 3)
    known, gone = shown["NetworksAttachments"]
    assert known["Addresses"] == ["10.9.0.7/20"]
    assert known["Network"]["Spec"]["Name"] == "default"
    assert gone == {"Network": {"ID": "gone"}, "Addresses": ["10.8.0.7"]}


def test_only_wanted_tasks_count_as_running() -> None:
    running = TaskStatus(state=TaskState.RUNNING, timestamp_ns=1)
    tasks = [
        task_of(id="runs"),
        task_of(id="starts"),
        task_of(id="unseen"),
        task_of(TaskState.SHUTDOWN, id="on a lost node"),
        task_of(TaskState.REMOVE, id="going"),
    ]
    statuses = {
        "runs": running,
        "starts": TaskStatus(state=TaskState.STARTING, timestamp_ns=1),
        "on a lost node": running,
        "going": running,
    }
    assert service_status_object(SERVICE, tasks, statuses) == {
        "RunningTasks": 1,
        "DesiredTasks": 0,
        "CompletedTasks": 0,
    }


def service_of(mode, **fields):
    spec = msgspec.structs.replace(SPEC, mode=mode, **fields.pop("spec", {}))
    return msgspec.structs.replace(SERVICE, spec=spec, **fields)


def status_of(service, tasks, cron=None):
    """Tasks by their desired and observed states; the rest of each as keywords."""
    made, statuses = [], {}
    for number, (desired, observed, fields) in enumerate(tasks):
        made.append(task_of(desired, id=f"t{number}", **fields))
        statuses[f"t{number}"] = TaskStatus(state=observed, timestamp_ns=1)
    shown = service_status_object(service, made, statuses, cron)
    return shown["RunningTasks"], shown["DesiredTasks"], shown["CompletedTasks"]


def test_a_global_service_desires_what_its_nodes_were_given() -> None:
    service = service_of(ServiceMode(global_=GlobalMode()))
    tasks = [
        (TaskState.RUNNING, TaskState.RUNNING, {"target_node": "n1", "slot": 0}),
        # A start-first update has two tasks on a node for a while.
        (TaskState.RUNNING, TaskState.STARTING, {"target_node": "n1", "slot": 0}),
        (TaskState.RUNNING, TaskState.PENDING, {"target_node": "n2", "slot": 0}),
        (TaskState.SHUTDOWN, TaskState.RUNNING, {"target_node": "n3", "slot": 0}),
    ]
    assert status_of(service, tasks) == (1, 2, 0)


def test_a_job_counts_the_tasks_of_its_present_run() -> None:
    mode = ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=2, total_completions=5))
    service = service_of(mode, job_iteration=3, executed_ns=CREATED_NS)
    tasks = [
        (TaskState.COMPLETE, TaskState.COMPLETE, {"iteration": 2}),
        (TaskState.COMPLETE, TaskState.COMPLETE, {"iteration": 3}),
        (TaskState.COMPLETE, TaskState.RUNNING, {"iteration": 3}),
        (TaskState.COMPLETE, TaskState.FAILED, {"iteration": 3}),
        (TaskState.REMOVE, TaskState.RUNNING, {"iteration": 2}),
    ]
    assert status_of(service, tasks) == (1, 2, 1)
    shown = as_json(service_object(service, 1))["JobStatus"]
    assert shown == {
        "JobIteration": {"Index": 3},
        "LastExecution": "2023-11-14T22:13:20.000000005Z",
    }


def test_a_global_job_desires_what_is_not_complete() -> None:
    service = service_of(ServiceMode(global_job=GlobalJobMode()))
    tasks = [
        (TaskState.COMPLETE, TaskState.COMPLETE, {"iteration": 0, "target_node": "n1"}),
        (TaskState.COMPLETE, TaskState.RUNNING, {"iteration": 0, "target_node": "n2"}),
    ]
    assert status_of(service, tasks) == (1, 1, 1)


def test_of_a_schedule_the_runs_under_way_count_or_else_the_last() -> None:
    mode = ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=1, total_completions=1))
    service = service_of(mode, spec={"schedule": Schedule(expression="@hourly")})
    tasks = [
        (TaskState.COMPLETE, TaskState.COMPLETE, {"iteration": 1}),
        (TaskState.COMPLETE, TaskState.RUNNING, {"iteration": 2}),
        (TaskState.COMPLETE, TaskState.RUNNING, {"iteration": 3}),
    ]
    first = CronRun(number=1, scheduled_ns=1, outcome="complete")
    both = (CronRun(number=2, scheduled_ns=2), CronRun(number=3, scheduled_ns=3))
    under_way = CronStatus(service_id="s1", considered_ns=3, runs=(first, *both))
    assert status_of(service, tasks, under_way) == (2, 1, 0)
    over = CronStatus(service_id="s1", considered_ns=3, runs=(first,))
    assert status_of(service, tasks, over) == (0, 1, 1)
    assert status_of(service, tasks) == (0, 1, 0)


def test_a_task_of_a_global_service_is_named_by_its_node() -> None:
    shown = as_json(task_object(task_of(target_node="node1", slot=0), None, 1, {}))
    assert shown["Name"] == "web.node1"
    assert "Slot" not in shown
    assert as_json(task_object(task_of(), None, 1, {}))["Name"] == "web.3"


def test_a_task_shows_its_run_its_units_and_while_it_runs_its_ports() -> None:
    units = (
        GenericResource(named=NamedResource(kind="gpu", resource_value="a")),
        GenericResource(discrete=DiscreteResource(kind="ssd", resource_value=2)),
    )
    ports = (PortConfig(target_port=80, published_port=8080, publish_mode="host"),)
    task = task_of(iteration=4, generic_resources=units, ports=ports, node_id="n1")
    running = TaskStatus(state=TaskState.RUNNING, timestamp_ns=1, is_ready=False)
    shown = as_json(task_object(task, running, 1, {}))
    assert shown["JobIteration"] == {"Index": 4}
    assert shown["GenericResources"] == [
        {"NamedResourceSpec": {"Kind": "gpu", "Value": "a"}},
        {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 2}},
    ]
    assert shown["Status"]["PortStatus"] == {
        "Ports": [
            {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}
        ]
    }
    assert shown["Status"]["Ready"] is False
    failed = TaskStatus(state=TaskState.FAILED, timestamp_ns=1)
    ended = as_json(task_object(task, failed, 1, {}))["Status"]
    assert (ended["PortStatus"], "Ready" in ended) == ({}, False)


def test_a_node_shows_its_plugins_and_units() -> None:
    status = node_status("h1", "10.0.0.1")
    description = msgspec.structs.replace(
        status.description,
        plugins=(EnginePlugin(type="Volume", name="local"),),
        generic_resources=(
            GenericResource(discrete=DiscreteResource(kind="gpu", resource_value=2)),
        ),
    )
    node = NodeObject(id="n1", spec=NodeSpec(), created_ns=1, updated_ns=1)
    seen = msgspec.structs.replace(status, description=description)
    shown = as_json(node_object(node, seen, 1, None))["Description"]
    assert shown["Engine"]["Plugins"] == [{"Type": "Volume", "Name": "local"}]
    assert shown["Resources"]["GenericResources"] == [
        {"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}
    ]


def node_status(hostname, address):
    description = NodeDescription(
        hostname=hostname,
        address=address,
        architecture="amd64",
        nano_cpus=1,
        memory_bytes=1,
        engine_version="20",
    )
    return NodeStatus(state="ready", description=description, changed_ns=1)


def view(leader):
    return LeadershipView("m1", "follower", 3, leader, 9, 9, 9)


def test_a_node_on_a_masters_host_is_a_manager() -> None:
    members = (
        Member("m1", "10.0.0.1:7401", "10.0.0.1:7400"),
        Member("m2", "[fd00::2]:7401", "[fd00::2]:7400"),
    )
    nodes = {
        "a": node_status("h1", "10.0.0.1"),
        "b": node_status("h2", "fd00::2"),
        "c": node_status("h3", "10.0.0.3"),
    }
    found = manager_statuses(members, view("m2"), nodes)
    assert set(found) == {"a", "b"}
    assert found["a"].docker_object() == {"Reachability": "reachable", "Addr": "10.0.0.1:7401"}
    assert found["b"].docker_object()["Leader"] is True
    assert not any(status.leads for status in manager_statuses(members, view(None), nodes).values())


def test_on_one_address_each_master_goes_to_the_node_of_its_name() -> None:
    members = tuple(Member(f"h{n}", f"127.0.0.1:{7400 + n}", "127.0.0.1:1") for n in (1, 2))
    nodes = {name: node_status(name, "127.0.0.1") for name in ("h1", "h2", "h3")}
    found = manager_statuses(members, view("h2"), nodes)
    assert {name: status.address for name, status in found.items()} == {
        "h1": "127.0.0.1:7401",
        "h2": "127.0.0.1:7402",
    }
    assert [name for name, status in found.items() if status.leads] == ["h2"]
