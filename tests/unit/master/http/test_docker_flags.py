"""Each flag of `docker service create` and `update`, from both docker clients: what it asks for
stands in the spec, or the client says in one line why not.

`tests/unit/cli` has the same table for our own command line.
"""

import json

import pytest
from support.docker_clients import succeed

OLD_CLIENT = "/usr/bin/docker"
"""Debian's 20.10 lacks the flags of later APIs."""


async def create(run, *flags):
    await succeed(run, "service", "create", "-d", "--name", "web", *flags, "busybox", "sleep", "9")


async def spec_of(run):
    (shown,) = json.loads(await succeed(run, "service", "inspect", "web"))
    return shown["Spec"]


def at(value, path):
    for step in path.split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


CONTAINER = "TaskTemplate.ContainerSpec."
TASK = "TaskTemplate."

CREATED = [
    ("--mode global", "Mode", {"Global": {}}),
    (
        "--mode replicated-job --replicas 4 --max-concurrent 2",
        "Mode",
        {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 4}},
    ),
    ("--mode global-job", "Mode", {"GlobalJob": {}}),
    ("--replicas 4", "Mode", {"Replicated": {"Replicas": 4}}),
    ("--replicas-max-per-node 2", TASK + "Placement.MaxReplicas", 2),
    ("--constraint node.role==worker", TASK + "Placement.Constraints", ["node.role==worker"]),
    (
        "--placement-pref spread=node.labels.zone",
        TASK + "Placement.Preferences",
        [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}],
    ),
    ("--endpoint-mode dnsrr", "EndpointSpec.Mode", "dnsrr"),
    (
        "-p published=8080,target=80,mode=host",
        "EndpointSpec.Ports",
        [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}],
    ),
    ("-e A=1 -e B=2", CONTAINER + "Env", ["A=1", "B=2"]),
    ("--entrypoint sh", CONTAINER + "Command", ["sh"]),
    ("--workdir /w", CONTAINER + "Dir", "/w"),
    ("--user 5:5", CONTAINER + "User", "5:5"),
    ("--group docker", CONTAINER + "Groups", ["docker"]),
    ("--hostname h", CONTAINER + "Hostname", "h"),
    ("--tty", CONTAINER + "TTY", True),
    ("--read-only", CONTAINER + "ReadOnly", True),
    ("--init", CONTAINER + "Init", True),
    ("--container-label a=b", CONTAINER + "Labels", {"a": "b"}),
    ("--label a=b", "Labels", {"a": "b"}),
    (
        "--mount type=bind,source=/a,target=/b,readonly,bind-propagation=rslave",
        CONTAINER + "Mounts",
        [
            {
                "Type": "bind",
                "Source": "/a",
                "Target": "/b",
                "ReadOnly": True,
                "BindOptions": {"Propagation": "rslave"},
            }
        ],
    ),
    (
        "--mount type=volume,source=v,target=/b,volume-nocopy,volume-label=a=b",
        CONTAINER + "Mounts.0.VolumeOptions",
        {"NoCopy": True, "Labels": {"a": "b"}, "DriverConfig": {}},
    ),
    (
        "--mount type=tmpfs,target=/b,tmpfs-size=1m,tmpfs-mode=1777",
        CONTAINER + "Mounts.0.TmpfsOptions",
        {"SizeBytes": 1 << 20, "Mode": 0o1777},
    ),
    ("--limit-cpu 0.5", TASK + "Resources.Limits.NanoCPUs", 500_000_000),
    ("--limit-memory 64m", TASK + "Resources.Limits.MemoryBytes", 64 << 20),
    ("--limit-pids 7", TASK + "Resources.Limits.Pids", 7),
    ("--reserve-cpu 0.5", TASK + "Resources.Reservations.NanoCPUs", 500_000_000),
    ("--reserve-memory 64m", TASK + "Resources.Reservations.MemoryBytes", 64 << 20),
    (
        "--generic-resource gpu=2",
        TASK + "Resources.Reservations.GenericResources",
        [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}],
    ),
    (
        "--health-cmd true --health-interval 2s --health-retries 3 --health-timeout 1s",
        CONTAINER + "Healthcheck",
        {"Test": ["CMD-SHELL", "true"], "Interval": 2 * 10**9, "Timeout": 10**9, "Retries": 3},
    ),
    ("--no-healthcheck", CONTAINER + "Healthcheck", {"Test": ["NONE"]}),
    (
        "--restart-condition on-failure --restart-max-attempts 3 --restart-delay 1s "
        "--restart-window 1m",
        TASK + "RestartPolicy",
        {"Condition": "on-failure", "Delay": 10**9, "MaxAttempts": 3, "Window": 60 * 10**9},
    ),
    (
        "--update-parallelism 2 --update-delay 1s --update-failure-action rollback "
        "--update-max-failure-ratio .25 --update-monitor 9s --update-order start-first",
        "UpdateConfig",
        {
            "Parallelism": 2,
            "Delay": 10**9,
            "FailureAction": "rollback",
            "MaxFailureRatio": 0.25,
            "Monitor": 9 * 10**9,
            "Order": "start-first",
        },
    ),
    ("--rollback-parallelism 0", "RollbackConfig.Parallelism", 0),
    ("--rollback-failure-action continue", "RollbackConfig.FailureAction", "continue"),
    ("--stop-grace-period 3s", CONTAINER + "StopGracePeriod", 3 * 10**9),
    ("--stop-signal SIGUSR1", CONTAINER + "StopSignal", "SIGUSR1"),
    ("--dns 10.0.0.1", CONTAINER + "DNSConfig.Nameservers", ["10.0.0.1"]),
    ("--dns-option ndots:1", CONTAINER + "DNSConfig.Options", ["ndots:1"]),
    ("--dns-search a.b", CONTAINER + "DNSConfig.Search", ["a.b"]),
    ("--host db:10.0.0.1", CONTAINER + "Hosts", ["10.0.0.1 db"]),
    ("--cap-add NET_ADMIN", CONTAINER + "CapabilityAdd", ["CAP_NET_ADMIN"]),
    ("--cap-drop ALL", CONTAINER + "CapabilityDrop", ["ALL"]),
    ("--sysctl net.core.somaxconn=9", CONTAINER + "Sysctls", {"net.core.somaxconn": "9"}),
    ("--ulimit nofile=9:10", CONTAINER + "Ulimits", [{"Name": "nofile", "Soft": 9, "Hard": 10}]),
    (
        "--log-driver json-file --log-opt max-size=1m",
        TASK + "LogDriver",
        {"Name": "json-file", "Options": {"max-size": "1m"}},
    ),
    ("--isolation default", CONTAINER + "Image", "busybox:latest"),
]

CREATED_BY_NEW_CLIENTS = [
    ("--health-cmd true --health-start-interval 2s", CONTAINER + "Healthcheck.StartInterval"),
    ("--oom-score-adj -5", CONTAINER + "OomScoreAdj"),
]


@pytest.mark.parametrize(("flags", "path", "value"), CREATED)
async def test_what_a_flag_of_create_asks_for(cluster, run, flags, path, value) -> None:
    await create(run, *flags.split())
    spec = await spec_of(run)
    assert at(spec, path) == value
    # The progress display and `ls` of every client can tell what mode it is.
    listed = await succeed(run, "service", "ls", "--format", "{{.Name}} {{.Mode}}")
    kind = next(iter(spec["Mode"]))
    shown = {"Global": "global", "GlobalJob": "global job", "ReplicatedJob": "replicated job"}
    assert listed == f"web {shown.get(kind, 'replicated')}\n"


@pytest.mark.parametrize(("flags", "path"), CREATED_BY_NEW_CLIENTS)
async def test_flags_that_only_newer_clients_have(
    cluster, run, docker_command, flags, path
) -> None:
    if docker_command == OLD_CLIENT:
        code, _, _ = await run("service", "create", "-d", *flags.split(), "busybox")
        assert code == 125
        return
    await create(run, *flags.split())
    assert at(await spec_of(run), path)


async def test_lists_of_a_service_grow_and_shrink(cluster, run) -> None:
    await create(run, "-e", "A=1", "--mount", "type=tmpfs,target=/a", "--label", "a=b")
    await succeed(
        run,
        *("service", "update", "-d", "--env-add", "B=2", "--env-rm", "A"),
        *("--mount-add", "type=volume,source=v,target=/v", "--mount-rm", "/a"),
        *("--label-add", "c=d", "--label-rm", "a", "--container-label-add", "x=y"),
        *("--publish-add", "published=8080,target=80,mode=host"),
        *("--constraint-add", "node.id!=x", "--dns-add", "10.0.0.1", "--host-add", "db:10.0.0.9"),
        *("--sysctl-add", "net.core.somaxconn=9", "--cap-add", "SYS_TIME", "--args", "sleep 7"),
        *("--image", "busybox:2", "--limit-pids", "9", "--update-parallelism", "3", "web"),
    )
    spec = await spec_of(run)
    container = spec["TaskTemplate"]["ContainerSpec"]
    assert (container["Env"], container["Args"]) == (["B=2"], ["sleep", "7"])
    assert [mount["Target"] for mount in container["Mounts"]] == ["/v"]
    assert spec["Labels"] == {"c": "d"}
    assert spec["EndpointSpec"]["Ports"][0]["PublishMode"] == "host"
    assert spec["UpdateConfig"]["Parallelism"] == 3
    await succeed(
        run,
        *(
            "service",
            "update",
            "-d",
            "--publish-rm",
            "target=80,mode=host",
            "--constraint-rm",
            "node.id!=x",
        ),
        *("--dns-rm", "10.0.0.1", "--host-rm", "db:10.0.0.9", "--sysctl-rm", "net.core.somaxconn"),
        *("--cap-drop", "SYS_TIME", "web"),
    )
    spec = await spec_of(run)
    assert not spec["EndpointSpec"].get("Ports")
    assert not spec["TaskTemplate"]["Placement"].get("Constraints")


async def test_a_service_goes_back_and_forth(cluster, run) -> None:
    await create(run)
    await succeed(run, "service", "update", "-d", "--env-add", "A=1", "web")
    for expected in (None, ["A=1"], None):
        await succeed(run, "service", "rollback", "-d", "web")
        assert (await spec_of(run))["TaskTemplate"]["ContainerSpec"].get("Env") == expected


async def test_the_cluster_keeps_as_many_ended_tasks_as_it_is_told(cluster, run) -> None:
    await succeed(run, "swarm", "update", "--task-history-limit", "3")
    assert cluster.state.settings.task_history_limit == 3
    limit = "{{.Swarm.Cluster.Spec.Orchestration.TaskHistoryRetentionLimit}}"
    assert await succeed(run, "info", "--format", limit) == "3\n"
    code, _, err = await run("swarm", "update", "--dispatcher-heartbeat", "9s")
    assert (code, "HeartbeatPeriod" in err) == (1, True)


REFUSED = [
    ("-p 7400:80", "port 7400/tcp is Essaim's own, for the API"),
    ("-p 80:80 --endpoint-mode dnsrr", "can't be used with dnsrr mode"),
    ("-p published=8,target=80,mode=host -p published=8,target=81,mode=host", "duplicate publish"),
    ("--network nowhere", "nowhere"),
    ("--network default --network default", "network default is given twice"),
    ("--network name=default,alias=-x", "the alias '-x' is not valid as a DNS name"),
    ("--network name=default,driver-opt=a=b", "the driver option a of network"),
    ("--mount type=bind,source=/a,target=b", "mount path must be absolute"),
    ("--mount type=tmpfs,target=/a --mount type=tmpfs,target=/a", "duplicate mount point: /a"),
    ("--mount type=npipe,source=a,target=b", "named pipes are for Windows"),
    ("--limit-memory 1m", "Must be at least 4MiB"),
    ("--limit-cpu 0.0001", "Must be at least 0.001"),
    ("--constraint a=b", "expected one operator"),
    ("--placement-pref spread=colour", "cannot spread over 'colour'"),
    ("--name a.b", "valid as a DNS name component"),
    ("--update-max-failure-ratio 2", "less than 0 or bigger than 1"),
    ("--rollback-failure-action rollback", "must be pause or continue"),
    ("--rollback-order sideways", "sideways"),
    ("--restart-condition maybe", "maybe"),
    ("--mode sideways", "sideways"),
    ("--mode global --replicas-max-per-node 2", "replicas-max-per-node"),
    ("--health-cmd x --health-interval 5ns", "cannot be less than 1ms"),
    ("--cap-add FLY", 'invalid capability: "CAP_FLY"'),
    ("--stop-signal SIGNOPE", "invalid signal: SIGNOPE"),
    ("--isolation hyperv", "isolation is a matter of Windows"),
    ("--credential-spec file://x", "credential specs are for Windows"),
    ("--env A={{.Nope}}", "expanding env failed"),
]


@pytest.mark.parametrize(("flags", "sentence"), REFUSED)
async def test_what_a_flag_cannot_ask_for(cluster, run, flags, sentence) -> None:
    revision = cluster.state.revision
    code, _, err = await run("service", "create", "-d", *flags.split(), "busybox")
    assert code == 1, err
    assert sentence in err
    assert cluster.state.revision == revision
    await create(run)
    service = next(iter(cluster.state.services.values()))
    assert service.spec.name == "web"
