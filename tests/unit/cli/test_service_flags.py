"""Each flag of `service create`, and the piece of Docker's specification that it makes."""

import pytest

from essaim_cli.flag_kinds import CREATE, Items, Refused, Switch, Value
from essaim_cli.service_changes import create, update
from essaim_cli.service_flags.table import FLAGS
from essaim_cli.service_spec import created_spec

SECOND = 1_000_000_000
ENVIRONMENT = {"FROM_CALLER": "yes"}


def given(command, *arguments):
    """What the real parser makes of a command line."""
    return command.make_context(command.name, list(arguments)).params


def spec_of(*arguments):
    params = given(create, *arguments)
    image, words = params.pop("image"), params.pop("arguments")
    return created_spec(image, words, params, ENVIRONMENT)


def at(spec, path):
    for name in path.split("."):
        spec = spec[name]
    return spec


CONTAINER = "TaskTemplate.ContainerSpec"
RESOURCES = "TaskTemplate.Resources"

MADE = [
    (("--name", "web"), "Name", "web"),
    (("--mode", "global"), "Mode", {"Global": {}}),
    (("--mode", "global-job"), "Mode", {"GlobalJob": {}}),
    (("--replicas", "3"), "Mode", {"Replicated": {"Replicas": 3}}),
    (("--replicas", "0"), "Mode", {"Replicated": {"Replicas": 0}}),
    (
        ("--mode", "replicated-job", "--replicas", "5"),
        "Mode",
        {"ReplicatedJob": {"MaxConcurrent": 5, "TotalCompletions": 5}},
    ),
    (
        ("--mode", "replicated-job", "--replicas", "5", "--max-concurrent", "2"),
        "Mode",
        {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 5}},
    ),
    (("-l", "a=1", "-l", "b", "-l", "a=2"), "Labels", {"a": "2", "b": ""}),
    (
        ("--constraint", "node.role==worker"),
        "TaskTemplate.Placement.Constraints",
        ["node.role==worker"],
    ),
    (
        ("--placement-pref", "spread=node.labels.rack"),
        "TaskTemplate.Placement.Preferences",
        [{"Spread": {"SpreadDescriptor": "node.labels.rack"}}],
    ),
    (("--replicas-max-per-node", "2"), "TaskTemplate.Placement.MaxReplicas", 2),
    (("--limit-cpu", "0.5"), f"{RESOURCES}.Limits.NanoCPUs", 500_000_000),
    (("--limit-memory", "64m"), f"{RESOURCES}.Limits.MemoryBytes", 64 << 20),
    (("--limit-pids", "9"), f"{RESOURCES}.Limits.Pids", 9),
    (("--reserve-cpu", "1"), f"{RESOURCES}.Reservations.NanoCPUs", 1_000_000_000),
    (("--reserve-memory", "1g"), f"{RESOURCES}.Reservations.MemoryBytes", 1 << 30),
    (("--memory-swap", "-1"), f"{RESOURCES}.SwapBytes", -1),
    (("--memory-swappiness", "10"), f"{RESOURCES}.MemorySwappiness", 10),
    (
        ("--generic-resource", "gpu=2"),
        f"{RESOURCES}.Reservations.GenericResources",
        [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}],
    ),
    (
        ("-e", "A=1", "-e", "FROM_CALLER", "-e", "NOWHERE"),
        f"{CONTAINER}.Env",
        ["A=1", "FROM_CALLER=yes"],
    ),
    (("-e", "A=1", "-e", "B=2", "-e", "A=3"), f"{CONTAINER}.Env", ["A=3", "B=2"]),
    (("--entrypoint", "sh -c 'a b'"), f"{CONTAINER}.Command", ["sh", "-c", "a b"]),
    (("-w", "/srv"), f"{CONTAINER}.Dir", "/srv"),
    (("-u", "1:2"), f"{CONTAINER}.User", "1:2"),
    (("--group", "wheel"), f"{CONTAINER}.Groups", ["wheel"]),
    (("--hostname", "{{.Node.Hostname}}"), f"{CONTAINER}.Hostname", "{{.Node.Hostname}}"),
    (("-t",), f"{CONTAINER}.TTY", True),
    (("--tty=false",), f"{CONTAINER}.TTY", False),
    (("--read-only=true",), f"{CONTAINER}.ReadOnly", True),
    (("--init",), f"{CONTAINER}.Init", True),
    (("--container-label", "a=1"), f"{CONTAINER}.Labels", {"a": "1"}),
    (("--stop-grace-period", "1m"), f"{CONTAINER}.StopGracePeriod", 60 * SECOND),
    (("--stop-signal", "SIGINT"), f"{CONTAINER}.StopSignal", "SIGINT"),
    (("--pre-stop", "nginx -s quit"), f"{CONTAINER}.PreStop", {"Command": ["nginx", "-s", "quit"]}),
    (
        ("--mount", "type=bind,src=/a,dst=/b,ro,bind-propagation=rslave"),
        f"{CONTAINER}.Mounts",
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
        ("--mount", 'dst=/d,volume-driver=nfs,"volume-opt=o=rw,soft",volume-label=a=b'),
        f"{CONTAINER}.Mounts",
        [
            {
                "Type": "volume",
                "Target": "/d",
                "VolumeOptions": {
                    "DriverConfig": {"Name": "nfs", "Options": {"o": "rw,soft"}},
                    "Labels": {"a": "b"},
                },
            }
        ],
    ),
    (
        ("--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777"),
        f"{CONTAINER}.Mounts",
        [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777}}],
    ),
    (
        ("--secret", "key"),
        f"{CONTAINER}.Secrets",
        [
            {
                "SecretName": "key",
                "File": {"Name": "key", "UID": "0", "GID": "0", "Mode": 0o444},
                "DataVersion": None,
                "Pinned": None,
            }
        ],
    ),
    (
        ("--config", "source=c,target=/etc/c,mode=0400,uid=7,version=3"),
        f"{CONTAINER}.Configs",
        [
            {
                "ConfigName": "c",
                "File": {"Name": "/etc/c", "UID": "7", "GID": "0", "Mode": 0o400},
                "DataVersion": 3,
                "Pinned": True,
            }
        ],
    ),
    (
        ("-p", "8080-8081:80-81/udp"),
        "EndpointSpec.Ports",
        [
            {"Protocol": "udp", "PublishMode": "ingress", "TargetPort": 80, "PublishedPort": 8080},
            {"Protocol": "udp", "PublishMode": "ingress", "TargetPort": 81, "PublishedPort": 8081},
        ],
    ),
    (
        ("-p", "target=80,published=8080,mode=host"),
        "EndpointSpec.Ports",
        [{"Protocol": "tcp", "PublishMode": "host", "TargetPort": 80, "PublishedPort": 8080}],
    ),
    (
        ("-p", "80"),
        "EndpointSpec.Ports",
        [{"Protocol": "tcp", "PublishMode": "ingress", "TargetPort": 80}],
    ),
    (("--endpoint-mode", "dnsrr"), "EndpointSpec.Mode", "dnsrr"),
    (("--session-affinity", "client-ip"), "EndpointSpec", {"Affinity": "client-ip"}),
    (("--publish-force", "-p", "22"), "EndpointSpec.ForcePorts", True),
    (("--network", "host"), "TaskTemplate.Networks", [{"Target": "host"}]),
    (
        ("--network", "front", "--network", "name=back,alias=db,alias=sql,driver-opt=a=b"),
        "TaskTemplate.Networks",
        [
            {"Target": "front"},
            {"Target": "back", "Aliases": ["db", "sql"], "DriverOpts": {"a": "b"}},
        ],
    ),
    (("--network", "name=a,alias=b"), "TaskTemplate.Networks", [{"Target": "a", "Aliases": ["b"]}]),
    (("--dns", "8.8.8.8"), f"{CONTAINER}.DNSConfig.Nameservers", ["8.8.8.8"]),
    (("--dns-option", "ndots:1"), f"{CONTAINER}.DNSConfig.Options", ["ndots:1"]),
    (("--dns-search", "lan"), f"{CONTAINER}.DNSConfig.Search", ["lan"]),
    (("--host", "db:10.0.0.1"), f"{CONTAINER}.Hosts", ["10.0.0.1 db"]),
    (("--host", "db:::1"), f"{CONTAINER}.Hosts", ["::1 db"]),
    (("--cap-add", "net_admin", "--cap-add", "ALL"), f"{CONTAINER}.CapabilityAdd", ["ALL"]),
    (
        ("--cap-drop", "CHOWN", "--cap-add", "cap_kill", "--cap-drop", "KILL"),
        f"{CONTAINER}.CapabilityDrop",
        ["CAP_CHOWN"],
    ),
    (("--sysctl", "net.core.somaxconn=9"), f"{CONTAINER}.Sysctls", {"net.core.somaxconn": "9"}),
    (
        ("--ulimit", "nofile=1:2"),
        f"{CONTAINER}.Ulimits",
        [{"Name": "nofile", "Soft": 1, "Hard": 2}],
    ),
    (("--oom-score-adj", "-5"), f"{CONTAINER}.OomScoreAdj", -5),
    (
        ("--device", "/dev/a:/dev/b:rw"),
        f"{CONTAINER}.Devices",
        [{"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "rw"}],
    ),
    (("--privileged",), f"{CONTAINER}.Privileged", True),
    (("--security-opt", "no-new-privileges"), f"{CONTAINER}.SecurityOpt", ["no-new-privileges"]),
    (("--shm-size", "1g"), f"{CONTAINER}.ShmSize", 1 << 30),
    (("--pid", "host"), f"{CONTAINER}.PidMode", "host"),
    (("--ipc", "shareable"), f"{CONTAINER}.IpcMode", "shareable"),
    (("--cgroup-parent", "/g"), f"{CONTAINER}.CgroupParent", "/g"),
    (("--isolation", "default"), f"{CONTAINER}.Isolation", "default"),
    (
        ("--log-driver", "local", "--log-opt", "max-size=1m"),
        "TaskTemplate.LogDriver",
        {"Name": "local", "Options": {"max-size": "1m"}},
    ),
    (
        ("--health-cmd", "true || false"),
        f"{CONTAINER}.Healthcheck",
        {"Test": ["CMD-SHELL", "true || false"]},
    ),
    (
        (
            *("--health-interval", "1s", "--health-timeout", "2s", "--health-retries", "3"),
            *("--health-start-period", "4s", "--health-start-interval", "5s"),
        ),
        f"{CONTAINER}.Healthcheck",
        {
            "Interval": SECOND,
            "Timeout": 2 * SECOND,
            "Retries": 3,
            "StartPeriod": 4 * SECOND,
            "StartInterval": 5 * SECOND,
        },
    ),
    (("--no-healthcheck",), f"{CONTAINER}.Healthcheck", {"Test": ["NONE"]}),
    (
        ("--readiness", "http:8080/health,period=5s,failures=3,header=Host:web"),
        f"{CONTAINER}.Probes.Readiness",
        {
            "HTTP": {"Port": 8080, "Path": "/health", "Headers": {"Host": "web"}},
            "Period": 5 * SECOND,
            "FailureThreshold": 3,
        },
    ),
    (
        ("--liveness", "tcp:5432,timeout=2s,delay=3s"),
        f"{CONTAINER}.Probes.Liveness",
        {"TCP": {"Port": 5432}, "Timeout": 2 * SECOND, "InitialDelay": 3 * SECOND},
    ),
    (
        ("--startup", "exec:sh -c 'a,b',successes=2"),
        f"{CONTAINER}.Probes.Startup",
        {"Exec": {"Command": ["sh", "-c", "a,b"]}, "SuccessThreshold": 2},
    ),
    (
        ("--restart-condition", "on-failure", "--restart-window", "1m"),
        "TaskTemplate.RestartPolicy",
        {"Condition": "on-failure", "Delay": 5 * SECOND, "MaxAttempts": 0, "Window": 60 * SECOND},
    ),
    (("--restart-delay", "1s"), "TaskTemplate.RestartPolicy.Delay", SECOND),
    (("--restart-max-attempts", "3"), "TaskTemplate.RestartPolicy.MaxAttempts", 3),
    (("--restart-backoff-max", "1m"), "TaskTemplate.RestartPolicy.BackoffMax", 60 * SECOND),
    (("--stop-when-cut-off", "30s"), "TaskTemplate.StopWhenCutOff", 30 * SECOND),
    (("--pull", "always"), f"{CONTAINER}.PullPolicy", "always"),
    *(
        (
            (f"--{kind}-parallelism", "0", f"--{kind}-order", "start-first"),
            group,
            {
                "Parallelism": 0,
                "FailureAction": "pause",
                "Monitor": 5 * SECOND,
                "MaxFailureRatio": 0,
                "Order": "start-first",
            },
        )
        for kind, group in (("update", "UpdateConfig"), ("rollback", "RollbackConfig"))
    ),
    *(
        ((f"--{kind}-{flag}", value), f"{group}.{name}", made)
        for kind, group in (("update", "UpdateConfig"), ("rollback", "RollbackConfig"))
        for flag, value, name, made in (
            ("delay", "2s", "Delay", 2 * SECOND),
            ("monitor", "1s", "Monitor", SECOND),
            ("failure-action", "continue", "FailureAction", "continue"),
            ("max-failure-ratio", "0.25", "MaxFailureRatio", 0.25),
            ("deadline", "0", "ProgressDeadline", 0),
        )
    ),
    (("--update-steps", "10%,50"), "UpdateConfig.Steps", [10, 50, 100]),
    (
        (
            *("--schedule", "*/5 * * * *", "--time-zone", "Europe/Paris"),
            *("--schedule-concurrency", "forbid", "--schedule-missed", "run-once"),
            *("--schedule-history", "2", "--schedule-suspend"),
        ),
        "Schedule",
        {
            "Expression": "*/5 * * * *",
            "TimeZone": "Europe/Paris",
            "Concurrency": "forbid",
            "Missed": "run-once",
            "History": 2,
            "Suspended": True,
        },
    ),
    (("--mode", "cron", "--schedule", "@daily"), "Mode", {"ReplicatedJob": {}}),
]


@pytest.mark.parametrize(("flags", "path", "made"), MADE, ids=lambda value: str(value)[:60])
def test_a_flag_makes_its_piece_of_the_specification(flags, path, made):
    assert at(spec_of(*flags, "img"), path) == made


def test_nothing_is_sent_that_was_not_asked_for():
    assert spec_of("img") == {
        "Name": "",
        "Labels": {},
        "TaskTemplate": {"ContainerSpec": {"Image": "img"}},
        "Mode": {"Replicated": {}},
    }


def test_every_flag_of_create_is_in_this_table():
    shorts = {f"-{flag.short}": flag.name for flag in FLAGS if getattr(flag, "short", "")}
    words = {word.partition("=")[0] for flags, _, _ in MADE for word in flags}
    tested = {shorts.get(word, word.removeprefix("--")) for word in words}
    without_spec = {"env-file", "with-registry-auth", "no-resolve-image"}
    wanted = {
        flag.name
        for flag in FLAGS
        if CREATE in flag.on and not isinstance(flag, Refused) and flag.name not in without_spec
    }
    assert wanted - tested == set()


def test_update_has_every_flag_of_create_but_those_that_cannot_change():
    names = {option for parameter in update.params for option in parameter.opts}
    for flag in FLAGS:
        if flag.name in ("name", "mode", "env-file"):
            assert f"--{flag.name}" not in names
        elif isinstance(flag, Items):
            assert {f"--{flag.name}-add", f"--{flag.name}-rm"} <= names
            assert f"--{flag.name}" not in names
        elif isinstance(flag, Value | Switch | Refused):
            assert f"--{flag.name}" in names


def test_what_follows_the_image_belongs_to_the_container():
    spec = spec_of("-te", "A=1", "img", "sh", "--tty=false", "--name", "x")
    assert at(spec, CONTAINER) == {
        "Image": "img",
        "TTY": True,
        "Env": ["A=1"],
        "Args": ["sh", "--tty=false", "--name", "x"],
    }
