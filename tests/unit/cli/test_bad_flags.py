"""Bad input, flag by flag: the sentence and the exit code, and nothing sent.

125 is a bad flag or value, 1 anything else, as `docker` has it. The master is a socket that would
notice a connection.
"""

import select
import socket

import pytest

from essaim_cli.__main__ import run

USAGE, FAILURE = 125, 1


@pytest.fixture
def silent_master(tmp_path):
    """Its host flag. Fails the test if anybody connected."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "m"))
        listener.listen()
        yield f"unix://{tmp_path / 'm'}"
        connected, _, _ = select.select([listener], [], [], 0)
        assert not connected, "a request was sent"


BAD_VALUES = [
    ("--mode", "worldwide", "use replicated or global or replicated-job"),
    ("--replicas", "three", "'three' is not a whole number"),
    ("--replicas", "-1", "'-1' is not a whole number"),
    ("--replicas", "9223372036854775808", "is not a whole number"),
    ("--max-concurrent", "x", "'x' is not a whole number"),
    ("--label", "=x", "write KEY=VALUE"),
    ("--container-label", "=x", "write KEY=VALUE"),
    ("--env", "=x", "invalid environment variable: =x"),
    ("--constraint", "node.role", "write KEY==VALUE or KEY!=VALUE"),
    ("--constraint", "node.role=worker", "write KEY==VALUE or KEY!=VALUE"),
    ("--placement-pref", "node.labels.x", 'of the format "<strategy>=<arg>"'),
    ("--placement-pref", "pack=x", "unsupported placement preference pack"),
    ("--replicas-max-per-node", "x", "is not a whole number"),
    ("--limit-cpu", "some", "invalid number of CPUs 'some'"),
    ("--limit-cpu", "1e-12", "invalid number of CPUs"),
    ("--limit-memory", "lots", "write for example 512k, 64m or 1g"),
    ("--limit-pids", "-1", "is not a whole number"),
    ("--reserve-cpu", "-1", "invalid number of CPUs"),
    ("--reserve-memory", "1x", "invalid size"),
    ("--memory-swap", "-2", "invalid size"),
    ("--memory-swappiness", "101", "from -1 to 100"),
    ("--generic-resource", "gpu", "expected `name=value`"),
    ("--generic-resource", "gpu=UUID", "Named Generic Resources is not supported"),
    ("--generic-resource", "gpu=0", "ask for 1 or more"),
    ("--gpus", "all", "--generic-resource gpu=1"),
    ("--entrypoint", "sh 'x", "quotes must come in pairs"),
    ("--group", "", "value is empty"),
    ("--stop-grace-period", "10", "invalid duration '10'"),
    ("--pre-stop", "'", "quotes must come in pairs"),
    ("--mount", "", "value is empty"),
    ("--mount", "type=bind,source=/a", "target is required"),
    ("--mount", "type=disk,target=/a", "unknown mount type 'disk'"),
    ("--mount", "target", "must be a key=value pair"),
    ("--mount", "target=", "value is empty"),
    ("--mount", "target= /a", "value should not have whitespace"),
    ("--mount", "target=/a, source=/b", "option should not have whitespace"),
    ("--mount", "target=/a,colour=red", "unknown option 'colour'"),
    ("--mount", "target=/a,readonly=yes", "'yes' is not true, 1, false or 0"),
    ("--mount", "target=/a,tmpfs-size=1m", "cannot mix 'tmpfs-*' options with mount type 'volume'"),
    ("--mount", "type=tmpfs,target=/a,tmpfs-mode=9", "write octal digits"),
    ("--mount", "type=tmpfs,target=/a,tmpfs-size=x", "invalid value for tmpfs-size"),
    ("--mount", "type=bind,target=/a,bind-recursive=deep", '"enabled", "disabled"'),
    ("--mount", "type=bind,target=/a,bind-recursive=readonly", "requires 'readonly'"),
    ("--mount", "type=bind,target=/a,bind-nonrecursive=1", "bind-recursive=disabled"),
    ("--mount", '"target=/a', "double quotes"),
    ("--secret", "target=x", "source is required"),
    ("--secret", "source=a,mode=9", "invalid mode specified: 9"),
    ("--secret", "source=a,version=0", "versions are counted from 1"),
    ("--config", "source=a,version=x", "'x' is not a whole number"),
    ("--config", "source=a,x=1", "use source, target, uid, gid, mode and version"),
    ("--config", "source=a,colour=red", "invalid field key colour"),
    ("--publish", "0:80", "invalid published port (0)"),
    ("--publish", "80:x", "invalid target port (x)"),
    ("--publish", "80:65536", "invalid target port (65536)"),
    ("--publish", "127.0.0.1:80:80", "hostip is not supported"),
    ("--publish", "80-82:80-81", "3 ports are published for 2"),
    ("--publish", "82-80:80", "ends before it begins"),
    ("--publish", "1-60000:1-60000", "a service has at most 256 ports"),
    ("--publish", "80/icmp", "invalid protocol value 'icmp'"),
    ("--publish", "published=80", "missing mandatory field 'target'"),
    ("--publish", "target=80,mode=lan", "must be either 'ingress' or 'host'"),
    ("--publish", "target=80,colour=red", "invalid field key: colour"),
    ("--endpoint-mode", "dns", "use vip or dnsrr"),
    ("--session-affinity", "cookie", "use client-ip or none"),
    ("--network", "name=a,weight=3", "invalid field key weight"),
    ("--network", "alias=a", "network name is missing"),
    ("--dns", "here", "IP address is not correctly formatted"),
    ("--host", "db", 'bad format for add-host: "db"'),
    ("--host", "db:here", 'invalid IP address in add-host: "here"'),
    ("--cap-add", "net admin", "write for example NET_ADMIN"),
    ("--cap-drop", "", "invalid capability"),
    ("--sysctl", "=1", "write KEY=VALUE"),
    ("--ulimit", "nofile", "write NAME=SOFT[:HARD]"),
    ("--ulimit", "nofile=2:1", "must be less than or equal to hard limit: 2 > 1"),
    ("--ulimit", "nofile=x", "'x' is not a whole number"),
    ("--oom-score-adj", "1001", "from -1000 to 1000"),
    ("--device", "fuse", "write /dev/HOST[:/dev/INSIDE][:rwm]"),
    ("--device", "/dev/a:x", "invalid device mode: x"),
    ("--shm-size", "x", "invalid size"),
    ("--pid", "container:x", "use host"),
    ("--ipc", "none2", "use private or shareable"),
    ("--credential-spec", "file://x", "nodes run Linux"),
    ("--isolation", "hyperv", "nodes run Linux"),
    ("--log-opt", "=x", "write KEY=VALUE"),
    ("--health-interval", "x", "invalid duration"),
    ("--health-interval", "-1s", "invalid duration"),
    ("--health-timeout", "x", "invalid duration"),
    ("--health-retries", "x", "is not a whole number"),
    ("--health-start-period", "x", "invalid duration"),
    ("--health-start-interval", "x", "invalid duration"),
    ("--readiness", "8080", "write for example http:8080/health"),
    ("--readiness", "http:/health", "invalid port ()"),
    ("--readiness", "tcp:80,times=3", "unknown option 'times=3'"),
    ("--readiness", "tcp:80,header=A:b", "with http only"),
    ("--liveness", "exec:", "the command is empty"),
    ("--liveness", "tcp:80,failures=0", "'0' is not a whole number from 1"),
    ("--startup", "tcp:80,period=5", "invalid duration '5'"),
    ("--restart-condition", "always", "use none or on-failure or any"),
    ("--restart-delay", "x", "invalid duration"),
    ("--restart-max-attempts", "x", "is not a whole number"),
    ("--restart-window", "x", "invalid duration"),
    ("--restart-backoff-max", "x", "invalid duration"),
    ("--stop-when-cut-off", "x", "invalid duration"),
    ("--pull", "sometimes", "use missing or always or never"),
    *(
        (f"--{kind}-{flag}", value, said)
        for kind in ("update", "rollback")
        for flag, value, said in (
            ("parallelism", "-1", "is not a whole number"),
            ("delay", "x", "invalid duration"),
            ("monitor", "x", "invalid duration"),
            ("failure-action", "explode", "use pause or continue"),
            ("max-failure-ratio", "1.5", "a share from 0 to 1"),
            ("order", "last", "use stop-first or start-first"),
            ("deadline", "x", "invalid duration"),
        )
    ),
    ("--rollback-failure-action", "rollback", "use pause or continue"),
    ("--update-steps", "50%,10%", "they must grow"),
    ("--update-steps", "0%", "invalid step '0%'"),
    ("--schedule-concurrency", "maybe", "use allow or forbid or replace"),
    ("--schedule-missed", "later", "use skip or run-once"),
    ("--schedule-history", "x", "is not a whole number"),
    ("--timeout", "soon", "invalid duration"),
]


@pytest.mark.parametrize(("flag", "value", "said"), BAD_VALUES, ids=str)
def test_a_bad_value_is_told_with_what_to_write_instead(silent_master, capsys, flag, value, said):
    code = run(["--host", silent_master, "service", "create", f"{flag}={value}", "img"])
    printed = capsys.readouterr()
    first, hint = printed.err.splitlines()
    assert code == USAGE
    assert first.startswith("Error: invalid argument ")
    assert f"--{flag.removeprefix('--')}" in first
    assert said in first
    assert hint == "See 'essaim service create --help'."
    assert printed.out == ""


ON_UPDATE = {"publish-rm": "x", "generic-resource-add": "gpu", "mount-add": "x", "ulimit-add": "x"}


@pytest.mark.parametrize("flag", sorted(ON_UPDATE))
def test_update_checks_its_own_flags_as_well(silent_master, capsys, flag):
    code = run(["--host", silent_master, "service", "update", f"--{flag}", ON_UPDATE[flag], "web"])
    assert code == USAGE
    assert f'for "--{flag}" flag' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("create", USAGE, "Missing argument 'IMAGE'"),
        ("create --nonsense img", USAGE, "--nonsense"),
        ("create --tty=perhaps img", USAGE, "write true or false"),
        ("create --env-file /nowhere img", USAGE, "cannot read --env-file /nowhere"),
        ("create --mode global --replicas 1 img", FAILURE,
         "replicas can only be used with replicated or replicated-job mode"),
        ("create --mode global-job --replicas-max-per-node 1 img", FAILURE,
         "replicas-max-per-node can only be used with replicated or replicated-job mode"),
        ("create --max-concurrent 1 img", FAILURE,
         "max-concurrent can only be used with replicated-job mode"),
        ("create --mode replicated-job --update-delay 1s img", FAILURE,
         "update and rollback configuration is not supported for jobs"),
        ("create --mode global-job --rollback-order start-first img", FAILURE,
         "update and rollback configuration is not supported for jobs"),
        ("create --no-healthcheck --health-cmd x img", FAILURE,
         "--no-healthcheck conflicts with --health-* options"),
        ("create --mode cron img", FAILURE, "mode cron needs its times: --schedule"),
        ("create --mode global --schedule @daily img", FAILURE,
         "schedule can only be used with replicated-job mode"),
        ("create --time-zone UTC img", FAILURE, "give --schedule too"),
        ("create --log-opt a=b img", FAILURE, "give --log-driver too"),
        ("create --mount type=tmpfs,dst=/a --mount source=v,dst=/a img", FAILURE,
         "duplicate mount point: /a"),
        ("create --generic-resource gpu=1 --generic-resource gpu=2 img", FAILURE,
         "duplicate generic resource: gpu"),
        ("create --device /dev/null:/dev/a --device /dev/zero:/dev/a img", FAILURE,
         "duplicate device: /dev/a"),
        ("update", USAGE, "Missing argument 'SERVICE'"),
        ("update --name x web", USAGE, "--name"),
        ("update --mode global web", USAGE, "--mode"),
        ("update --rollback --image x web", FAILURE,
         "other flags may not be combined with --rollback"),
        ("update --rollback --force web", FAILURE,
         "other flags may not be combined with --rollback"),
        ("scale web", USAGE, "write SERVICE=REPLICAS"),
        ("scale web=-1", USAGE, "invalid replicas value '-1'"),
        ("rollback --to 0 web", USAGE, "--to"),
        ("history", USAGE, "Missing argument 'SERVICE'"),
        ("history -f a=b web", USAGE, "no filters"),
        ("runs -f a=b web", USAGE, "no filters"),
        ("promote", USAGE, "Missing argument 'SERVICE'"),
        ("inspect --pretty -f x web", USAGE, "incompatible"),
    ],
)  # fmt: skip
def test_flags_that_contradict_each_other_change_nothing(silent_master, capsys, words, code, said):
    assert run(["--host", silent_master, "service", *words.split()]) == code
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.startswith("Error: ")
    assert printed.out == ""


def test_every_flag_with_a_grammar_of_its_own_is_tried_with_something_bad():
    from essaim_cli.flag_kinds import Items, Value
    from essaim_cli.service_flags.table import FLAGS

    tried = {flag.removeprefix("--") for flag, _, _ in BAD_VALUES}
    anything_goes = {"dns-option", "dns-search", "security-opt"}
    checked = {
        flag.name
        for flag in FLAGS
        if (isinstance(flag, Value) and (flag.parse is not str or flag.choices))
        or (isinstance(flag, Items) and flag.name not in anything_goes)
    }
    assert checked - tried == {"args"}, "args is of update only, and split as --entrypoint"
