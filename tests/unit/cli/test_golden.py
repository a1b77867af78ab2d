"""What the lists and `inspect --pretty` look like, held by files in `golden/`.

After a change that is meant, renew them and read the difference:

    ESSAIM_RENEW_GOLDEN=1 python -m pytest tests/unit/cli/test_golden.py; git diff tests/unit/cli
"""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from essaim_cli.formatting import natural_key, render_list
from essaim_cli.network_view import NETWORK_COLUMNS, network_row
from essaim_cli.progress import measure
from essaim_cli.service_changes import create
from essaim_cli.service_pretty import pretty_service
from essaim_cli.service_spec import created_spec
from essaim_cli.service_view import (
    HISTORY_COLUMNS,
    RUN_COLUMNS,
    SERVICE_COLUMNS,
    history_row,
    run_row,
    service_row,
    shown_ports,
)
from essaim_cli.task_view import TASK_COLUMNS, task_rows

GOLDEN = Path(__file__).with_name("golden")
IS_RENEWED = bool(os.environ.get("ESSAIM_RENEW_GOLDEN"))
NOW = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)

EVERYTHING = (
    *("--name", "web", "--replicas", "3", "-l", "tier=front", "-l", "plain"),
    *("--constraint", "node.role==worker", "--constraint", "node.labels.disk==ssd"),
    *("--placement-pref", "spread=node.labels.rack", "--replicas-max-per-node", "2"),
    *("--limit-cpu", "0.5", "--limit-memory", "64m", "--limit-pids", "100"),
    *("--reserve-cpu", "0.25", "--reserve-memory", "32m", "--generic-resource", "gpu=1"),
    *("--memory-swap", "64m", "--memory-swappiness", "10"),
    *("-e", "A=1", "-e", "B=two words", "--entrypoint", "/bin/sh -c", "-w", "/srv", "-u", "1:2"),
    *("--group", "wheel", "--hostname", "{{.Task.Slot}}", "--tty", "--read-only", "--init"),
    *("--container-label", "a=b", "--stop-grace-period", "1m30s", "--stop-signal", "SIGINT"),
    *("--pre-stop", "nginx -s quit", "--pull", "always"),
    *("--mount", "type=bind,src=/a,dst=/b,ro", "--mount", "src=data,dst=/data"),
    *("--network", "front", "--network", "name=back,alias=db"),
    *("--session-affinity", "client-ip", "--publish-force"),
    *("-p", "8080:80", "-p", "target=53,published=53,protocol=udp,mode=host"),
    *(
        "--dns",
        "8.8.8.8",
        "--dns-option",
        "ndots:1",
        "--dns-search",
        "lan",
        "--host",
        "db:10.0.0.9",
    ),
    *("--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN", "--sysctl", "net.core.somaxconn=1024"),
    *("--ulimit", "nofile=1024:2048", "--oom-score-adj", "-5", "--device", "/dev/fuse"),
    *("--privileged", "--security-opt", "no-new-privileges", "--shm-size", "128m"),
    *("--pid", "host", "--ipc", "private", "--cgroup-parent", "/web"),
    *("--log-driver", "local", "--log-opt", "max-size=10m"),
    *("--health-cmd", "curl -f localhost", "--health-interval", "5s", "--health-retries", "3"),
    *("--startup", "tcp:80,failures=30", "--readiness", "http:80/ready,header=Host:web,period=2s"),
    *("--liveness", "exec:pg_isready -q,timeout=500ms"),
    *("--restart-condition", "on-failure", "--restart-window", "2m", "--restart-max-attempts", "3"),
    *("--restart-backoff-max", "1m", "--stop-when-cut-off", "30s"),
    *("--update-parallelism", "2", "--update-delay", "10s", "--update-steps", "10%,100%"),
    *("--rollback-failure-action", "continue", "--rollback-deadline", "5m"),
)
JOB = (
    "--name",
    "sum",
    "--schedule",
    "*/5 * * * *",
    "--time-zone",
    "Europe/Paris",
    "--replicas",
    "5",
)


def shown(*flags, **more):
    params = create.make_context("create", [*flags, "nginx:1.27"]).params
    spec = created_spec(params.pop("image"), params.pop("arguments"), params, {})
    ports = (spec.get("EndpointSpec") or {}).get("Ports", [])
    return {"ID": "x" * 25, "Spec": spec, "Endpoint": {"Ports": ports}, **more}


def listed(name, mode, running, desired, completed=0, image="nginx:1.27", ports=(), **parts):
    status = {"RunningTasks": running, "DesiredTasks": desired, "CompletedTasks": completed}
    template = {"ContainerSpec": {"Image": image}, **parts.pop("TaskTemplate", {})}
    spec = {"Name": name, "Mode": mode, "TaskTemplate": template, **parts}
    return service_row(
        {"ID": name.ljust(25, "x"), "Spec": spec, "ServiceStatus": status,
         "Endpoint": {"Ports": list(ports)}}
    )  # fmt: skip


def port(published, target=80, protocol="tcp", mode="ingress"):
    return {
        "PublishedPort": published,
        "TargetPort": target,
        "Protocol": protocol,
        "PublishMode": mode,
    }


def services():
    job = {"ReplicatedJob": {"TotalCompletions": 10, "MaxConcurrent": 3}}
    digest = "docker.io/library/nginx:1.27@sha256:" + "0" * 64
    rows = [
        listed("web-10", {"Replicated": {"Replicas": 4}}, 2, 4, ports=[port(81), port(80)]),
        listed("web-2", {"Replicated": {"Replicas": 3}}, 3, 3, image=digest,
               TaskTemplate={"Placement": {"MaxReplicas": 2}}),
        listed("agent", {"Global": {}}, 3, 3, ports=[port(9100, mode="host")]),
        listed("sum", job, 2, 3, 5),
        listed("scan", {"GlobalJob": {}}, 1, 2, 1),
        listed("nightly", job, 0, 3, 10, Schedule={"Expression": "@daily"}),
    ]  # fmt: skip
    rows.sort(key=lambda row: natural_key(row["Name"]))
    return rows


def tasks():
    def task(slot, state, at, desired="running", err="", node="node1", ports=()):
        return {
            "ID": f"{state}{at}".ljust(25, "x"),
            "ServiceID": "s",
            "Slot": slot,
            "NodeID": node,
            "CreatedAt": f"2026-11-20T10:{at:02}:00Z",
            "DesiredState": desired,
            "Status": {
                "State": state,
                "Timestamp": f"2026-11-20T10:{at:02}:00Z",
                "PortStatus": {"Ports": list(ports)} if ports else {},
                **({"Err": err} if err else {}),
            },
            "Spec": {"ContainerSpec": {"Image": "nginx:1.27@sha256:0"}},
        }

    return [
        task(10, "running", 5),
        task(2, "failed", 10, desired="shutdown", err="task: non-zero exit (137): killed by OOM"),
        task(2, "running", 20, ports=[port(8080, mode="host"), port(8081, 81, mode="host")]),
        task(1, "pending", 29, node="", err="no suitable node (insufficient resources on 3 nodes)"),
        task(None, "running", 29, node="node2"),
    ]


def task_table():
    rows = task_rows(tasks(), {"s": "web"}, {"node1": "h1"}, NOW, no_trunc=False)
    return render_list(rows, TASK_COLUMNS, None, quiet=False)


def history():
    def revision(number, image, at, **more):
        template = {"ContainerSpec": {"Image": image}}
        created = f"2026-11-20T{at}:00Z"
        spec = {"TaskTemplate": template}
        return {"Revision": number, "CreatedAt": created, "Spec": spec, **more}

    found = [revision(10, "nginx:1.27", "10:00", Current=True), revision(9, "nginx:1.26", "08:00")]
    rows = [history_row(one, NOW) for one in found]
    return render_list(rows, HISTORY_COLUMNS, None, quiet=False)


def runs():
    found = [
        {"JobIteration": {"Index": 3}, "ScheduledAt": "2026-11-20T10:29:00Z",
         "StartedAt": "2026-11-20T10:29:01Z", "Outcome": "running"},
        {"JobIteration": {"Index": 2}, "ScheduledAt": "2026-11-20T10:28:00Z", "Outcome": "skipped",
         "Reason": "run 1 is under way"},
        {"JobIteration": {"Index": 1}, "ScheduledAt": "2026-11-20T10:20:00Z",
         "StartedAt": "2026-11-20T10:20:00Z", "FinishedAt": "2026-11-20T10:28:30Z",
         "Outcome": "complete"},
    ]  # fmt: skip
    return render_list([run_row(run, NOW) for run in found], RUN_COLUMNS, None, quiet=False)


def progress():
    service = {"Spec": {"Mode": {"Replicated": {"Replicas": 12}}}}
    found = measure(service, tasks()[:4], frozenset())
    return "\n".join([found.headline, *map(str, found.bars)])


UPDATING = {
    "State": "updating",
    "StartedAt": "2026-11-20T10:00:00.5Z",
    "Message": "update in progress",
}


def everything():
    item = shown(*EVERYTHING, UpdateStatus=UPDATING)
    item["Endpoint"]["VirtualIPs"] = [
        {"NetworkID": "f" * 25, "Addr": "10.201.0.2/20"},
        {"NetworkID": "b" * 25, "Addr": "10.201.16.2/20"},
    ]
    for attachment, letter in zip(item["Spec"]["TaskTemplate"]["Networks"], "fb", strict=True):
        attachment["Target"] = letter * 25
    return pretty_service(item, NOW, {"f" * 25: "front", "b" * 25: "back"})


def networks():
    found = [
        {"Id": "n" * 25, "Name": "back", "Driver": "overlay", "Scope": "swarm"},
        {"Id": "h" * 25, "Name": "host", "Driver": "host", "Scope": "local"},
    ]
    return render_list(
        [network_row(item, no_trunc=False) for item in found], NETWORK_COLUMNS, None, quiet=False
    )


TEXTS = {
    "network-ls": networks,
    "service-ls": lambda: render_list(services(), SERVICE_COLUMNS, None, quiet=False),
    "service-ls-json": lambda: render_list(services(), SERVICE_COLUMNS, "json", quiet=False),
    "service-ps": task_table,
    "service-history": history,
    "service-runs": runs,
    "service-inspect-pretty": everything,
    "service-inspect-pretty-plain": lambda: pretty_service(shown("--name", "web"), NOW),
    "service-inspect-pretty-cron": lambda: pretty_service(shown(*JOB), NOW),
    "converge": progress,
}


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_the_text_is_that_of_its_golden_file(name):
    path = GOLDEN / f"{name}.txt"
    text = TEXTS[name]() + "\n"
    if IS_RENEWED:
        path.write_text(text)
    assert text == path.read_text(), f"renew it as the head of {Path(__file__).name} says"


def test_every_golden_file_has_its_text():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(TEXTS)


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        ([], ""),
        ([port(80)], "*:80->80/tcp"),
        ([port(80), port(81)], "*:80-81->80/tcp"),
        ([port(80, 80), port(81, 81)], "*:80-81->80-81/tcp"),
        ([port(80, 80), port(81, 81), port(82, 80)], "*:80-81->80-81/tcp, *:82->80/tcp"),
        ([port(80), port(82)], "*:80->80/tcp, *:82->80/tcp"),
        ([port(80), port(80, protocol="udp")], "*:80->80/tcp, *:80->80/udp"),
        ([port(80, mode="host")], ""),
    ],
)
def test_published_ports_are_drawn_together_as_docker_does(ports, text):
    assert shown_ports(ports) == text
