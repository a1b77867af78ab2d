"""The commands as a user types them, each its own process, against a real master's API."""

import asyncio
import json
import sys

import pytest


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
        (("service", "ps", "nothing"), 1, "nothing"),
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


@pytest.mark.parametrize("kind", ["node", "service"])
async def test_inspecting_an_unknown_object_prints_an_empty_list_as_docker_does(master, kind):
    done = await master.run(kind, "inspect", "h9")
    assert (done.code, done.out) == (1, "[]\n")
    assert "h9" in done.err


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
        "heavy = {'rich', 'docker', 'nats', 'starlette', 'asyncio', 'msgspec', 'psutil'}\n"
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
