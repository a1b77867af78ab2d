"""The commands as a user types them, each its own process, against a real master's API."""

import asyncio
import json
import signal
import sys

import pytest

from essaim_cli.service_changes import create
from essaim_cli.service_spec import created_spec, is_stored


async def test_a_service_from_birth_to_end(master):
    created = await master.run("service", "create", "-d", "--name", "web", "--replicas", "3", "img")
    assert created.code == 0, created
    assert len(created.out.strip()) == 25
    assert created.err == ""
    listed = await master.ok("service", "ls", "--format", "{{.Name}} {{.Replicas}} {{.Image}}")
    assert listed == "web 3/3 img:latest\n"
    scaled = await master.run("service", "scale", "-d", "web=12")
    assert scaled.out == "web scaled to 12\n"
    names = await master.ok("service", "ps", "web", "--format", "{{.Name}}@{{.Node}}")
    assert names.split()[0] == "web.1@h2"
    assert names.split()[-1] == "web.12@h1"
    assert await master.ok("service", "rm", "web") == "web\n"
    assert await master.ok("service", "ls", "-q") == ""


async def test_waiting_shows_progress_on_stderr_and_the_id_on_stdout(master):
    done = await master.run("service", "create", "--name", "web", "--replicas", "2", "img")
    assert done.code == 0, done
    assert len(done.out.split()) == 1
    assert "overall progress: 2 out of 2 tasks" in done.err
    assert "verify: Waiting 5 seconds to verify that tasks are stable..." in done.err
    assert done.err.rstrip().endswith("converged")


async def test_a_wait_that_cannot_succeed_ends_with_the_schedulers_reason(master):
    master.fails = "no suitable node (insufficient resources on 3 nodes)"
    done = await master.run("service", "create", "--timeout", "300ms", "--name", "big", "img")
    assert done.code == 1
    assert "Error: timed out with 0 out of 1 tasks running: no suitable node" in done.err
    assert "essaim service ps" in done.err
    assert len(done.out.split()) == 1, "the service was created and its id is known"


async def test_names_ids_and_unique_prefixes_are_understood(master):
    await master.ok("service", "create", "-d", "--name", "web", "img")
    full_id = json.loads(await master.ok("service", "inspect", "web"))[0]["ID"]
    for name in (full_id, full_id[:7]):
        assert json.loads(await master.ok("service", "inspect", name))[0]["ID"] == full_id
    assert await master.ok("service", "inspect", "-f", "{{.Spec.Name}}", full_id[:9]) == "web\n"
    assert "Replicas:" in await master.ok("service", "inspect", "--pretty", "web")


async def test_one_bad_name_does_not_keep_the_others_from_their_turn(master):
    await master.ok("service", "create", "-d", "--name", "web", "img")
    done = await master.run("service", "rm", "nothing", "web")
    assert done.code == 1
    assert done.out == "web\n"
    assert done.err.count("\n") == 1
    assert "nothing" in done.err


async def test_flags_after_the_image_belong_to_the_container(master):
    await master.ok(
        *("service", "create", "-d", "--name", "web", "-e", "A=1", "--limit-memory", "64m"),
        *("--restart-delay", "2s", "--restart-backoff-max", "1m", "--stop-when-cut-off", "30s"),
        *("img", "sh", "-c", "sleep 9", "--name", "x"),
    )
    spec = json.loads(await master.ok("service", "inspect", "web"))[0]["Spec"]
    template = spec["TaskTemplate"]
    assert template["ContainerSpec"]["Args"] == ["sh", "-c", "sleep 9", "--name", "x"]
    assert template["ContainerSpec"]["Env"] == ["A=1"]
    assert template["Resources"]["Limits"] == {"MemoryBytes": 64 << 20}
    assert template["RestartPolicy"]["Delay"] == 2_000_000_000
    assert template["RestartPolicy"]["BackoffMax"] == 60_000_000_000
    assert template["StopWhenCutOff"] == 30_000_000_000


async def test_flags_of_every_theme_arrive_in_the_cluster_and_are_shown_again(master):
    flags = (
        *("--replicas", "2", "--constraint", "node.role==worker", "--limit-pids", "9"),
        *("--placement-pref", "spread=node.labels.rack", "--generic-resource", "gpu=1"),
        *("--mount", "type=bind,src=/a,dst=/b,ro", "--mount", "type=tmpfs,dst=/t,tmpfs-size=1m"),
        *("-p", "target=80,published=8080,mode=host", "--ulimit", "nofile=1:2", "--group", "g"),
        *("--device", "/dev/fuse", "--security-opt", "no-new-privileges", "--shm-size", "1m"),
        *("--log-driver", "json-file", "--log-opt", "max-size=1m", "--pull", "never"),
        *("--health-cmd", "true", "--readiness", "http:80/,period=2s", "--liveness", "tcp:80"),
        *("--startup", "exec:true", "--pre-stop", "sync", "--update-steps", "50%,100%"),
        *("--update-order", "start-first", "--rollback-parallelism", "0", "--cap-add", "KILL"),
        *("--restart-window", "1m", "--host", "db:10.0.0.9", "--dns", "8.8.8.8", "--init"),
    )
    await master.ok("service", "create", "-d", "--name", "web", *flags, "img", "run")
    shown = json.loads(await master.ok("service", "inspect", "web"))[0]["Spec"]
    params = create.make_context("create", [*flags, "--name", "web", "img", "run"]).params
    sent = created_spec(params.pop("image"), params.pop("arguments"), params, {})
    assert is_stored(shown, sent), shown
    pretty = await master.ok("service", "inspect", "--pretty", "web")
    assert " Readiness:         http:80/,period=2s" in pretty


async def test_an_update_that_changes_nothing_keeps_every_field(master):
    """Read, change and write back: the masters' own answer is accepted as it is."""
    await master.ok(
        *("service", "create", "-d", "--name", "web", "--readiness", "tcp:80", "--privileged"),
        *("--update-steps", "50%,100%", "--mount", "src=data,dst=/data", "img"),
    )
    before = json.loads(await master.ok("service", "inspect", "web"))[0]["Spec"]
    await master.ok("service", "update", "-d", "web")
    assert json.loads(await master.ok("service", "inspect", "web"))[0]["Spec"] == before
    await master.ok("service", "update", "-d", "--readiness", "", "--privileged=false", "web")
    container = json.loads(await master.ok("service", "inspect", "web"))[0]["Spec"]
    container = container["TaskTemplate"]["ContainerSpec"]
    assert not (container.get("Probes") or {}).get("Readiness")
    assert not container.get("Privileged")


async def test_a_service_goes_back_to_what_it_was(master):
    await master.ok("service", "create", "-d", "--name", "web", "img:1")
    for tag in ("2", "3"):
        await master.ok("service", "update", "-d", "--image", f"img:{tag}", "web")
    revisions = await master.ok("service", "history", "web", "--format", "{{.ID}} {{.Image}}")
    assert revisions.splitlines() == ["3 img:3", "2 img:2", "1 img:1"]

    async def image():
        return await master.ok("service", "ls", "--format", "{{.Image}}")

    assert await master.ok("service", "rollback", "-d", "web") == "web\n"
    assert await image() == "img:2\n"
    await master.ok("service", "rollback", "-d", "--to", "1", "web")
    assert await image() == "img:1\n"
    unknown = await master.run("service", "rollback", "-d", "--to", "77", "web")
    assert unknown.code == 1
    assert "77" in unknown.err
    nothing = await master.run("service", "promote", "-d", "web")
    assert nothing.code == 1
    assert "waits to be promoted" in nothing.err


async def test_a_first_version_has_nothing_to_go_back_to(master):
    await master.ok("service", "create", "-d", "--name", "web", "img:1")
    done = await master.run("service", "rollback", "-d", "web")
    assert done.code == 1
    assert "does not have a previous spec" in done.err


async def test_jobs_scale_their_completions_and_cron_jobs_list_their_runs(master):
    cron = ("--schedule", "@daily", "--replicas", "2")
    await master.ok("service", "create", "--name", "sum", *cron, "img")
    assert await master.ok("service", "scale", "-d", "sum=5") == "sum scaled to 5\n"
    row = await master.ok("service", "ls", "--format", "{{.Mode}} {{.Replicas}}")
    assert row.startswith("cron ")
    assert row.endswith("(0/5 completed)\n")
    assert (await master.ok("service", "runs", "sum")).split()[:2] == ["RUN", "SCHEDULED"]


async def test_an_interrupted_wait_leaves_the_service_to_its_masters(master):
    master.fails = "no suitable node"
    process = await master.start_command("service", "create", "--name", "web", "img")
    first = await asyncio.wait_for(process.stderr.readline(), 20)
    assert first == b"overall progress: 0 out of 1 tasks\n"
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, err
    service_id = out.decode().strip()
    assert err.decode().splitlines()[-2:] == [
        "Operation continuing in background.",
        f"Use `essaim service ps {service_id}` to check progress.",
    ]


async def test_a_wait_can_be_interrupted_before_it_has_begun_to_show_anything(master):
    """The service is created, and then the master knows no leader: who is a member stays open."""
    asked = asyncio.Event()

    async def answer(reader, writer):
        request = (await reader.readuntil(b"\r\n\r\n")).split()
        is_create = request[0] == b"POST"
        body = b'{"ID": "svc"}' if is_create else b'{"message": "no leader"}'
        status = b"201 Created" if is_create else b"503 Service Unavailable"
        head = b"Content-Type: application/json\r\nConnection: close\r\nContent-Length: %d"
        writer.write(b"HTTP/1.1 " + status + b"\r\n" + head % len(body) + b"\r\n\r\n" + body)
        writer.close()
        if b"/essaim/cluster/members" in request:
            asked.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        process = await master.start_command(
            "--host", host, "service", "create", "--name", "web", "img"
        )
        await asyncio.wait_for(asked.wait(), 20)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, out) == (0, b"svc\n"), err
    assert err.decode().splitlines() == [
        "Operation continuing in background.",
        "Use `essaim service ps svc` to check progress.",
    ]


async def test_an_update_changes_what_was_named_and_keeps_the_rest(master):
    await master.ok("service", "create", "-d", "--name", "web", "-l", "a=1", "-l", "b=2", "img")
    await master.ok(
        *("service", "update", "-d", "--image", "img:2", "--label-rm", "a", "--label-add", "c=3"),
        *("--replicas", "2", "web"),
    )
    spec = json.loads(await master.ok("service", "inspect", "web"))[0]["Spec"]
    assert spec["Labels"] == {"b": "2", "c": "3"}
    assert spec["TaskTemplate"]["ContainerSpec"]["Image"] == "img:2"
    assert spec["Mode"] == {"Replicated": {"Replicas": 2}}


async def test_many_who_scale_at_once_all_succeed(master):
    await master.ok("service", "create", "-d", "--name", "web", "img")
    done = await asyncio.gather(
        *(master.run("service", "scale", "-d", f"web={count}") for count in range(6))
    )
    assert [one.code for one in done] == [0] * 6, done


async def test_nodes_are_listed_inspected_and_changed(master):
    rows = (await master.ok("node", "ls")).splitlines()
    assert rows[0].split()[:3] == ["ID", "HOSTNAME", "STATUS"]
    assert [row.replace("*", "").split()[1] for row in rows[1:]] == ["h1", "h2", "h10"]
    assert "node1 *" in rows[1], "the node of the master that was asked"
    assert "12.5%" in rows[1]
    await master.ok("node", "update", "--availability", "drain", "--label-add", "disk=ssd", "h2")
    node = json.loads(await master.ok("node", "inspect", "h2"))[0]
    assert node["Spec"]["Availability"] == "drain"
    assert node["Spec"]["Labels"] == {"disk": "ssd"}
    assert "Memory:" in await master.ok("node", "inspect", "--pretty", "self")
    refused = await master.run("node", "rm", "h2")
    assert refused.code == 1
    assert "down" in refused.err


async def test_top_shows_nodes_and_tasks(master):
    await master.ok("service", "create", "-d", "--name", "web", "img")
    assert "25.0%" in await master.ok("top", "nodes")
    tasks = await master.ok("top", "tasks", "--no-stream")
    assert "web.1" in tasks
    assert "10MiB / 4GiB" in tasks


async def test_info_and_version(master):
    assert "Raft role:" in await master.ok("info")
    assert json.loads(await master.ok("version", "--format", "json"))["Server"]["ApiVersion"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("service", "create", "--replicas", "three", "img"), 125, "'three'"),
        (("service", "create", "--replicas", "-1", "img"), 125, "-1"),
        (("service", "create", "--limit-memory", "lots", "img"), 125, "64m"),
        (("service", "create", "--mode", "worldwide", "img"), 125, "replicated-job"),
        (("service", "create", "--name", "not a name", "img"), 1, "valid as a DNS name"),
        (("service", "create", "--env-file", "/nowhere", "img"), 125, "/nowhere"),
        (("service", "create"), 125, "IMAGE"),
        (("service", "scale", "web"), 125, "SERVICE=REPLICAS"),
        (("service", "scale", "web=three"), 125, "'three'"),
        (("service", "scale", "nothing=2"), 1, "nothing"),
        (("service", "ps", "nothing"), 1, "no such service: nothing"),
        (("service", "ls", "-f", "colour"), 125, "KEY=VALUE"),
        (("service", "ls", "-f", "colour=red"), 1, "colour"),
        (("service", "ls", "--format", "{{range .}}"), 125, "not understood"),
        (("node", "update", "--label-rm", "none", "h1"), 1, "'none'"),
        (("nonsense",), 125, "nonsense"),
        (("--host", "ftp://x", "info"), 125, "unix:///PATH"),
        (("--host", "unix:///nowhere.sock", "info"), 1, "cannot reach a master"),
        (("--host", "tcp://127.0.0.1:1", "info"), 1, "refused"),
    ],
)
async def test_a_mistake_is_one_clear_line_and_the_right_exit_code(master, arguments, code, said):
    await master.ok("service", "create", "-d", "--name", "web", "img")
    before = await master.ok("service", "ls")
    done = await master.run(*arguments)
    assert done.code == code, done
    assert said in done.err
    assert done.err.startswith("Error: ")
    assert len(done.err.splitlines()) == (2 if code == 125 else 1), done
    assert done.out == ""
    assert await master.ok("service", "ls") == before


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [("node", "Error: node h9 not found\n"), ("service", "Error: no such service: h9\n")],
)
async def test_inspecting_an_unknown_object_prints_an_empty_list_as_docker_does(
    master, kind, sentence
):
    done = await master.run(kind, "inspect", "h9")
    assert (done.code, done.out, done.err) == (1, "[]\n", sentence)


async def test_a_cluster_without_quorum_says_so(master):
    master.cluster.available = False
    done = await master.run("service", "ls")
    assert done.code == 1
    assert "no quorum of masters" in done.err


@pytest.mark.parametrize("arguments", [["--help"], ["service", "ls", "--help"], ["version"]])
async def test_starting_up_imports_nothing_heavy(arguments):
    """`essaim --help` is to answer within 150 ms; what an import costs is in the import."""
    script = (
        "import sys\n"
        "from essaim_cli.__main__ import run\n"
        f"run({['--host', 'unix:///nowhere', *arguments]!r})\n"
        "heavy = {'rich', 'docker', 'nats', 'starlette', 'asyncio', 'msgspec', 'psutil',\n"
        "         'cryptography', 'nkeys'}\n"
        "sys.exit(sorted(heavy & set(sys.modules)).__repr__() if heavy & set(sys.modules) else 0)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()
