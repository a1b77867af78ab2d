"""The same words of the same unmodified docker client, to Docker Swarm and to Essaim: the same
specs, containers, texts and refusals, but for what is named here."""

import json
import re
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from support.lab_cluster import WEB, Cluster, Done, docker_clients
from support.real_swarm import RealSwarm

pytestmark = [pytest.mark.slow, pytest.mark.lab, pytest.mark.timeout(180)]

Run = Callable[..., Awaitable[Done]]

COMMON = ("--no-resolve-image", "--endpoint-mode", "dnsrr")
"""Kernels without IPVS cannot have Swarm's virtual addresses."""

CREATED = {
    "process": (
        "-e A=1 -e B=2 --entrypoint 'sh -c' --workdir /etc --user 0:5 --group 7 --tty "
        "--hostname '{{.Service.Name}}-{{.Task.Slot}}' --read-only --init --container-label c=d "
        "--label s=t --stop-grace-period 1s --stop-signal SIGUSR1 --dns 10.9.9.9 "
        "--dns-option ndots:3 --dns-search lan --host db:10.9.8.7 --sysctl kernel.msgmax=9999 "
        "--ulimit nofile=1000:2000 --cap-add NET_ADMIN --cap-drop MKNOD",
        "'sleep 600'",
    ),
    "around": (
        "--limit-cpu .5 --limit-memory 64m --limit-pids 50 --reserve-cpu .1 --reserve-memory 16m "
        "--log-driver json-file --log-opt max-size=1m --health-cmd true --health-interval 1s "
        "--health-timeout 2s --health-retries 4 --health-start-period 3s "
        "--mount type=bind,source=/etc,target=/bind,readonly "
        "--mount 'type=volume,source={{.Service.Name}}-v,target=/volume,volume-label=x=y' "
        "--mount type=tmpfs,target=/tmpfs,tmpfs-size=1m,tmpfs-mode=1700 "
        "--constraint node.role==manager --placement-pref spread=node.labels.zone "
        "--replicas-max-per-node 2 --restart-condition on-failure --restart-delay 1s "
        "--restart-max-attempts 3 --restart-window 1m --update-parallelism 2 --update-delay 1s "
        "--update-failure-action rollback --rollback-order start-first --isolation default",
        "",
    ),
    "plain": ("", ""),
}

UPDATED = {
    "process": "--env-add C=3 --env-rm A --env-add B=9 --args 'sleep 700' --entrypoint '' "
    "--workdir /tmp --user '' --group-add 8 --group-rm 7 --hostname h --tty=false --init=false "
    "--read-only=false --container-label-add e=f --container-label-rm c --label-add u=v "
    "--label-rm s --dns-add 10.9.9.8 --dns-rm 10.9.9.9 --dns-option-add ndots:4 "
    "--dns-option-rm ndots:3 --dns-search-add wan --dns-search-rm lan --host-add api:10.9.8.6 "
    "--host-rm db:10.9.8.7 --sysctl-add kernel.msgmnb=9999 --sysctl-rm kernel.msgmax "
    "--ulimit-add nproc=100 --ulimit-rm nofile --cap-add SYS_TIME --cap-drop NET_ADMIN "
    "--stop-signal SIGKILL",
    "around": "--limit-cpu .25 --limit-memory 128m --limit-pids 0 --reserve-memory 0 "
    "--log-driver local --no-healthcheck --mount-rm /bind --mount-add type=tmpfs,target=/other "
    "--mount-rm /tmpfs --placement-pref-rm spread=node.labels.zone "
    "--placement-pref-add spread=node.labels.rack --constraint-rm node.role==manager "
    "--constraint-add node.role!=worker --update-parallelism 0 --rollback-order stop-first "
    "--publish-add published=8081,target=80,mode=host --replicas-max-per-node 0 "
    "--restart-window 5m",
    "plain": "--force",
}

KNOWN_DEVIATIONS = {
    "TaskTemplate.ContainerSpec.Isolation": "for Windows; Swarm fills in `default`",
    "HostConfig.Isolation": "the same",
    "HostConfig.NetworkMode": "the agent prepares the network namespace,",
    "HostConfig.Runtime": "the runtime enters it,",
    "HostConfig.PortBindings.80/tcp": "and the agent publishes ports into it",
    "HostConfig.ExtraHosts": "the container's own name stands before the asked ones",
    "HostConfig.Dns": "the node's name server asks those that the user named,",
    "HostConfig.DnsOptions": "and Swarm's stands in resolv.conf only",
    "HostConfig.LogConfig.Config.max-size": "logs are rotated where nothing was said of them",
    "HostConfig.LogConfig.Config.max-file": "the same",
    "HostConfig.RestartPolicy.Name": "`no` is the word for Swarm's empty one",
    "Config.StopTimeout": "who stops it by hand gives it the same time,",
    "Config.StopSignal": "and the same signal",
}

NAMED_BY_CHANCE = {
    "Config.Labels.com.docker.swarm.node.id",
    "Config.Labels.com.docker.swarm.service.id",
    "Config.Labels.com.docker.swarm.task.id",
    "Config.Labels.com.docker.swarm.task.name",
    "Config.Labels.io.essaim.cluster",
    "Config.Labels.io.essaim.task",
}


@pytest.fixture
async def swarm(cluster: Cluster) -> AsyncIterator[RealSwarm]:
    made = RealSwarm(cluster, cluster.hosts[-1])
    try:
        await made.form()
        yield made
    finally:
        await made.leave()


@pytest.fixture(params=docker_clients())
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sides(cluster: Cluster, swarm: RealSwarm, client: str) -> dict[str, Run]:
    """The client at each of the two."""

    async def at_swarm(*words: str) -> Done:
        return await swarm.docker(*words, client=client)

    async def at_essaim(*words: str) -> Done:
        return await cluster.docker_at_master(*words, client=client)

    return {"swarm": at_swarm, "essaim": at_essaim}


async def ok(run: Run, *words: str) -> str:
    done = await run(*words)
    assert done.code == 0, f"{words}: {done.stderr}"
    return done.stdout


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """The parts of a JSON value by their paths. Empty ones are left out: they mean as much as
    absent ones."""
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for name, part in value.items():
            found |= leaves(part, f"{path}.{name}" if path else name)
        return found
    if path.endswith(".Env"):
        value = sorted(value or ())  # docker's own client adds in the order of a Go map
    return {path: value} if value else {}


def deviations(swarm: dict[str, Any], essaim: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs for no known reason: path → Swarm's and Essaim's."""
    first, second = leaves(swarm), leaves(essaim)
    return {
        path: (first.get(path), second.get(path))
        for path in first.keys() | second.keys()
        if first.get(path) != second.get(path)
        and path not in KNOWN_DEVIATIONS.keys() | NAMED_BY_CHANCE
    }


async def container_of(
    cluster: Cluster, side: str, service: str, not_ids: set[str]
) -> dict[str, Any]:
    """The running container, once it is another one."""
    found: list[dict[str, Any]] = []

    async def runs() -> bool:
        for identifier, host in (await cluster.containers(service)).items():
            done = await cluster.docker(host, "inspect", identifier)
            shown = json.loads(done.stdout)[0] if done.code == 0 else None
            if shown is None or identifier in not_ids:
                continue
            if ("io.essaim.task" in shown["Config"]["Labels"]) == (side == "essaim"):
                found.append(shown)
        return bool(found)

    await cluster.until(runs, f"{service} runs on the side of {side}")
    not_ids.add(found[0]["Id"])
    config = found[0]["Config"]
    if config["Hostname"] in (
        found[0]["Id"][:12],
        config["Labels"]["com.docker.swarm.task.id"][:12],
    ):
        config["Hostname"] = "nobody asked for one"
    return {part: found[0][part] for part in ("Config", "HostConfig", "Path", "Args")}


async def until_gone(cluster: Cluster) -> None:
    """Its ports are free then: a task that finds one taken would be a failed update."""

    async def gone() -> bool:
        return not await cluster.containers()

    await cluster.until(gone, "no container is left")


async def spec_of(run: Run, service: str) -> dict[str, Any]:
    (shown,) = json.loads(await ok(run, "service", "inspect", service))
    spec: dict[str, Any] = shown["Spec"]
    return spec


async def test_specs_and_containers_are_those_of_swarm(
    cluster: Cluster, sides: dict[str, Run]
) -> None:
    seen: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for side, run in sides.items():
        old: set[str] = set()
        for name, (flags, words) in CREATED.items():
            create = ("service", "create", "-d", "--name", name, *COMMON, *shlex.split(flags))
            await ok(run, *create, WEB, *shlex.split(words))
        created = [
            (await spec_of(run, name), await container_of(cluster, side, name, old))
            for name in CREATED
        ]
        for name, flags in UPDATED.items():
            await ok(run, "service", "update", "-d", *shlex.split(flags), name)
        updated = [
            (await spec_of(run, name), await container_of(cluster, side, name, old))
            for name in UPDATED
        ]
        seen[side] = created + updated
        await ok(run, "service", "rm", *CREATED)
        await until_gone(cluster)
    unlike = {
        f"{name} {'created' if index < len(CREATED) else 'updated'}": found
        for index, (name, swarm, essaim) in enumerate(
            zip([*CREATED, *UPDATED], seen["swarm"], seen["essaim"], strict=True)
        )
        if (found := deviations(swarm[0], essaim[0]) | deviations(swarm[1], essaim[1]))
    }
    assert not unlike, json.dumps(unlike, indent=1)


SAYINGS = [
    "service ls",
    "service ls --format {{.Name}}|{{.Mode}}|{{.Replicas}}|{{.Image}}|{{.Ports}}",
    "service ls -q --filter name=web",
    "service ps web",
    "service ps --no-trunc --format {{.Name}}|{{.DesiredState}}|{{.Error}}|{{.Ports}} web",
    "service inspect --pretty web",
    "service inspect --format {{.Spec.Mode.Replicated.Replicas}} web",
    "service inspect nope",
    "service ps nope",
    "service scale -d web=2 nope=3 all=2",
    "service scale -d web=1",
    "service rollback -d web",
    "service rollback -d all",
    "service update --replicas 3 all",
    "service update nope",
    "service create --name web busybox",
    "service rm web nope",
    "node ps nope",
    "node inspect nope",
    "node update --availability drain nope",
    "node rm nope",
    "node inspect --pretty {node}",
    "node inspect --format {{.Spec.Role}}|{{.Spec.Availability}}|{{.Status.State}} {node}",
    "node update --label-rm nope {node}",
    "node update --label-add a=b --availability pause {node}",
    "node update --label-rm a --availability active {node}",
    "node promote {node}",
    "node rm {node}",
]

HIDDEN = (
    (r"[a-z0-9]{25}", "<identifier>"),
    (r"(?m)^[a-z0-9]{12}\b", "<short>"),
    (r"(Less than a|less than a|[0-9]+|About a|about a) (second|minute)s? ago", "<time> ago"),
    (r"\b(h[0-9]|[a-z0-9-]+)( +)(Running|Ready|Shutdown)\b", r"<node> \3"),
    (r"\b[0-9]+/[0-9]+\b", "<replicas>"),
    (r"[ \t]+", " "),
    (r"\d{4}-\d\d-\d\d [0-9:.]+ \+0000 utc", "<date>"),
    (r"10\.98\.[0-9.]+(:[0-9]+)?", "<address>"),
    # Every node has a name in its spec, which Swarm leaves empty; and there is no TLS yet.
    (r"\nName: <node>\n", "\n"),
    (r"\nTLS Info:\n(.|\n)*", "\n"),
)
"""What two clusters cannot have in common: names by chance, times, nodes, column widths."""


def hidden(text: str) -> str:
    for pattern, instead in HIDDEN:
        text = re.sub(pattern, instead, text)
    return text


async def until_listed_as_running(cluster: Cluster, run: Run) -> None:
    """Both services, and the task before the present one has ended."""
    wanted = {"web": ["Running", "Shutdown"], "all": ["Running"]}

    async def listed() -> bool:
        for name, states in wanted.items():
            shown = await ok(run, "service", "ps", "--format", "{{.CurrentState}}", name)
            if sorted({line.split()[0] for line in shown.splitlines()}) != states:
                return False
        return True

    await cluster.until(listed, "the services run")


async def test_texts_are_those_of_swarm(cluster: Cluster, sides: dict[str, Run]) -> None:
    said: dict[str, list[tuple[int, str]]] = {}
    for side, run in sides.items():
        await ok(run, "service", "create", "-d", "--name", "web", *COMMON, WEB)
        await ok(run, "service", "create", "-d", "--name", "all", "--mode", "global", *COMMON, WEB)
        await ok(run, "service", "update", "-d", "--env-add", "A=1", "web")
        await until_listed_as_running(cluster, run)
        nodes = await ok(run, "node", "ls", "--format", "{{.ManagerStatus}} {{.Hostname}}")
        (node,) = re.findall(r"(?m)^Leader (.*)", nodes)
        answers = [await run(*words.replace("{node}", node).split()) for words in SAYINGS]
        said[side] = [
            (one.code, hidden(re.sub(rf"\b{node}\b", "<node>", one.stdout + one.stderr)))
            for one in answers
        ]
        await ok(run, "service", "rm", "all")
        await until_gone(cluster)
    unlike = [
        (words, swarm, essaim)
        for words, swarm, essaim in zip(SAYINGS, said["swarm"], said["essaim"], strict=True)
        if swarm != essaim
    ]
    assert not unlike, json.dumps(unlike, indent=1)


ENDS = {
    "fails": ("--restart-condition none", f"{WEB} sh -c 'exit 3'"),
    "completes": ("--restart-condition on-failure", f"{WEB} true"),
    "nocommand": ("--restart-condition none", f"{WEB} no-such-command"),
    "nobind": (
        "--restart-condition none --mount type=bind,source=/no/such/path,target=/a",
        WEB,
    ),
    "sick": (
        "--restart-condition none --health-cmd false --health-interval 100ms --health-retries 2 "
        "--stop-signal SIGKILL",
        WEB,
    ),
    "toobig": ("--reserve-cpu 999", WEB),
    "nowhere": ("--constraint node.labels.no==where", WEB),
    "job": ("--mode replicated-job --replicas 2", f"{WEB} true"),
    "badjob": (
        "--mode replicated-job --replicas 1 --restart-condition none",
        f"{WEB} false",
    ),
}
"""Services whose tasks end, or never run."""

TASKS = {"job": 2}
"""Of those that have more than one."""


UNDER_WAY = re.compile(
    r"\|(New|Allocated|Assigned|Accepted|Preparing|Ready|Starting|Running) |Pending .*\|\n"
    r"|\|Running\|(Failed|Rejected|Complete) "
)
"""In the row of a task that is not yet where it will stay."""


def hidden_ends(text: str) -> str:
    text = re.sub(r"[a-z0-9]{25}", "<identifier>", text)
    text = re.sub(r"(Less than a|less than a|[0-9]+|About a) (second|minute)s? ago", "ago", text)
    return re.sub(r"on [0-9]+ nodes?", "on <count> nodes", text)


async def test_tasks_end_as_in_swarm(cluster: Cluster, sides: dict[str, Run]) -> None:
    said: dict[str, dict[str, str]] = {side: {} for side in sides}
    for side, run in sides.items():
        shown = said[side]
        for name, (flags, words) in ENDS.items():
            create = ("service", "create", "-d", "--name", name, *COMMON)
            await ok(run, *create, *shlex.split(flags), *shlex.split(words))

        async def all_ended(run: Run = run, shown: dict[str, str] = shown) -> bool:
            for name in ENDS:
                row = "{{.Name}}|{{.DesiredState}}|{{.CurrentState}}|{{.Error}}"
                tasks = await ok(run, "service", "ps", "--no-trunc", "--format", row, name)
                listed = ("service", "ls", "--filter", f"name={name}", "--format")
                line = await ok(run, *listed, "{{.Name}}|{{.Mode}}|{{.Replicas}}")
                # They are listed by name, and the first task of a job is named after its node.
                shown[name] = line + "".join(sorted(hidden_ends(tasks).splitlines(True)))
            return all(
                text.count("\n") > TASKS.get(name, 1) and not UNDER_WAY.search(text)
                for name, text in shown.items()
            )

        await cluster.until(all_ended, f"the tasks of {side} end")
        await ok(run, "service", "rm", *ENDS)
        await until_gone(cluster)
    unlike = {
        name: (said["swarm"][name], said["essaim"][name])
        for name in ENDS
        if said["swarm"][name] != said["essaim"][name]
    }
    assert not unlike, json.dumps(unlike, indent=1)


REFUSED_ALIKE = [
    "--limit-cpu 0.0001",
    "--limit-memory 1k",
    "--reserve-cpu 0.00001",
    "--reserve-memory 1m",
    "--mount type=tmpfs,dst=/a --mount type=tmpfs,dst=/a",
    "-p published=80,target=80,mode=host -p published=80,target=81,mode=host",
    "-p 80:80",
    "--restart-delay=-1s",
    "--restart-window=-1s",
    "--update-delay=-1s",
    "--update-monitor=-1s",
    "--update-max-failure-ratio 2",
    "--health-cmd x --health-interval 1ns",
    "--health-cmd x --health-retries -1",
    "--health-cmd x --no-healthcheck",
    "--hostname {{.Bad}}",
    "--env A={{.Bad}}",
    "--env A={{",
    "--name a.b",
    "--mode global --replicas 2",
    "--mode global --max-concurrent 2",
    "--mode replicated-job --update-delay 1s",
]
"""What both refuse with the same words; what Swarm takes and Essaim refuses stands in
`tests/unit/master/http/test_docker_flags.py`."""


async def test_refusals_are_those_of_swarm_and_change_nothing(
    cluster: Cluster, sides: dict[str, Run]
) -> None:
    said: dict[str, list[tuple[int, str]]] = {side: [] for side in sides}
    for flags in REFUSED_ALIKE:
        for side, run in sides.items():
            words = shlex.split(flags)
            done = await run("service", "create", "-d", *COMMON, *words, WEB)
            said[side].append((done.code, done.stderr))
    assert {code for code, _ in said["swarm"]} == {1}
    unlike = [
        (flags, swarm, essaim)
        for flags, swarm, essaim in zip(REFUSED_ALIKE, said["swarm"], said["essaim"], strict=True)
        if swarm != essaim
    ]
    assert not unlike, json.dumps(unlike, indent=1)
    assert not (await cluster.ok("service", "ls", "-q")).lines
