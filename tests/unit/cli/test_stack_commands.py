"""`essaim stack …`: what the masters are asked, what is printed, lost answers, waiting."""

import asyncio
import base64
import json
import shlex
import signal
import subprocess
import sys
from subprocess import PIPE

import pytest
from support.scripted_master import BREAK, Refusal

from essaim_cli.__main__ import run
from essaim_cli.converge import MASTERS_AWAY_S_MAX
from essaim_cli.pace import now_s
from essaim_cli.stack_deploy import credentials_of
from essaim_shared.clock import SystemClock, wait_until

DEPLOY = "POST /essaim/stacks/s"
REMOVE = "DELETE /essaim/stacks/s"
LIMIT_S = 20.0
WEB, DB = "w" * 25, "d" * 25
FILE = """
services:
  web: {image: "img:${TAG:-1}", networks: [front, given]}
networks:
  front: {}
  given: {external: true}
"""
ANSWER = {
    "Networks": [
        {"Name": "s_front", "Id": "f" * 25, "Created": True},
        {"Name": "s_back", "Id": "b" * 25, "Created": False},
    ],
    "Services": [
        {"Name": "s_web", "Id": WEB, "Action": "created"},
        {"Name": "s_db", "Id": DB, "Action": "updated"},
        {"Name": "s_same", "Id": "m" * 25, "Action": "unchanged"},
        {"Name": "s_old", "Id": "o" * 25, "Action": "removed"},
    ],
    "Warnings": None,
}
GIVEN = {"Id": "g" * 25, "Name": "given"}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "compose.yml"
    path.write_text(FILE)
    return str(path)


def service(service_id, name, replicas=1):
    return {
        "ID": service_id,
        "Version": {"Index": 1},
        "Spec": {
            "Name": name,
            "Labels": {"com.docker.stack.namespace": "s"},
            "Mode": {"Replicated": {"Replicas": replicas}},
            "TaskTemplate": {"ContainerSpec": {"Image": "img:1"}},
            "UpdateConfig": {"Monitor": 1},
        },
        "ServiceStatus": {"RunningTasks": 1, "DesiredTasks": replicas},
    }


def task(state="running", err="", node="n1"):
    return {
        "ID": "t" * 25,
        "ServiceID": WEB,
        "Slot": 1,
        "DesiredState": "running",
        "NodeID": node,
        "CreatedAt": "2026-01-01T00:00:00Z",
        "Spec": {"ContainerSpec": {"Image": "img:1"}},
        "Status": {"State": state, "Err": err, "Timestamp": "2026-01-01T00:00:00Z"},
    }


def essaim(host, *words):
    return run(["--host", host, "stack", *words])


async def interrupted(host, words, is_time):
    """The code and stderr of a command that is interrupted (Ctrl-C) at a certain moment."""
    command = [sys.executable, "-m", "essaim_cli", "--host", host, "stack", *words]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) as child:
        assert await wait_until(is_time, SystemClock(), LIMIT_S)
        child.send_signal(signal.SIGINT)
        _, printed = await asyncio.to_thread(child.communicate, timeout=LIMIT_S)
    return child.returncode, printed


@pytest.mark.parametrize("word", ["deploy", "up"])
def test_deploy_sends_the_whole_stack_and_prints_dockers_lines(masters, file, capsys, word):
    host, master = masters({DEPLOY: [ANSWER], "GET /networks/given": [GIVEN]})
    assert essaim(host, word, "-d", "-c", file, "s") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "Creating network s_front",
        "Creating service s_web",
        f"Updating service s_db (id: {DB})",
        f"Keeping service s_same (id: {'m' * 25})",
        "Removing service s_old",
    ]
    assert printed.err == ""
    (body,) = master.bodies(DEPLOY)
    assert body.keys() == {"Networks", "Services"}
    assert [network["Name"] for network in body["Networks"]] == ["s_front"]
    (sent,) = body["Services"]
    assert sent["TaskTemplate"]["ContainerSpec"]["Image"] == "img:1"
    assert [one["Target"] for one in sent["TaskTemplate"]["Networks"]] == ["given", "s_front"]


def test_deploy_takes_several_files(masters, file, tmp_path, capsys):
    other = tmp_path / "other.yml"
    other.write_text("services: {db: {image: img}}")
    host, master = masters({DEPLOY: [ANSWER], "GET /networks/given": [GIVEN]})
    assert essaim(host, "deploy", "-d", "--prune", "-c", f"{file},{other}", "s") == 0
    (body,) = master.bodies(DEPLOY)
    assert body["Prune"] is True
    assert [one["Name"] for one in body["Services"]] == ["s_db", "s_web"]


def test_a_deployment_whose_answer_was_lost_is_sent_again(masters, file, capsys):
    given = {"GET /networks/given": [GIVEN]}
    host, first, second = masters({DEPLOY: [BREAK], **given}, {DEPLOY: [ANSWER], **given})
    assert essaim(host, "deploy", "-d", "-c", file, "s") == 0
    assert first.bodies(DEPLOY) == second.bodies(DEPLOY)


def test_the_credentials_of_each_registry_go_with_its_services(tmp_path):
    auth = base64.b64encode(b"me:secret").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"r.example": {"auth": auth}}}))
    services = [
        {"Name": name, "TaskTemplate": {"ContainerSpec": {"Image": image}}}
        for name, image in (("s_a", "r.example/x"), ("s_b", "y"))
    ]
    found = credentials_of(services, {"DOCKER_CONFIG": str(tmp_path)})
    assert {name: json.loads(base64.urlsafe_b64decode(value)) for name, value in found.items()} == {
        "s_a": {"username": "me", "password": "secret", "serveraddress": "r.example"},
        "s_b": {},
    }


def test_a_network_that_should_be_there_is_looked_for_before_anything_is_made(
    masters, file, capsys
):
    host, master = masters({"GET /networks/given": [Refusal(404, "network given not found")]})
    assert essaim(host, "deploy", "-c", file, "s") == 1
    assert capsys.readouterr().err == (
        'Error: network "given" is declared as external, but could not be found. You need to '
        "create it before the stack is deployed: essaim network create given\n"
    )
    assert not master.bodies(DEPLOY)


def test_a_refusal_of_the_masters_is_passed_on(masters, file, capsys):
    refused = Refusal(400, "service s_web: invalid image")
    host, _ = masters({DEPLOY: [refused], "GET /networks/given": [GIVEN]})
    assert essaim(host, "deploy", "-c", file, "s") == 1
    assert capsys.readouterr().err == "Error: service s_web: invalid image\n"


def deployed(*names):
    services = [{"Name": f"s_{name}", "Id": ids, "Action": "created"} for ids, name in names]
    return {"Networks": [], "Services": services}


def test_deploy_waits_for_all_services_at_the_same_time(masters, file, capsys):
    host, _ = masters(
        {
            DEPLOY: [deployed((WEB, "web"), (DB, "db"))],
            "GET /networks/given": [GIVEN],
            f"GET /services/{WEB}": [service(WEB, "s_web")],
            f"GET /services/{DB}": [service(DB, "s_db")],
            "GET /tasks": [[task("pending")], [task("pending")], [task()]],
            "GET /nodes": [[]],
            "GET /essaim/wait": [{"Revision": 1}],
        }
    )
    assert essaim(host, "deploy", "-c", file, "s") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "s_web: overall progress: 0 out of 1 tasks",
        "s_db: overall progress: 0 out of 1 tasks",
    ]
    assert set(lines[-2:]) == {
        f"s_web: verify: Service {WEB} converged",
        f"s_db: verify: Service {DB} converged",
    }


def test_a_service_that_does_not_come_up_is_named_and_the_others_are_waited_for(
    masters, file, capsys
):
    host, _ = masters(
        {
            DEPLOY: [deployed((WEB, "web"), (DB, "db"))],
            "GET /networks/given": [GIVEN],
            f"GET /services/{WEB}": [service(WEB, "s_web", replicas=2)],
            f"GET /services/{DB}": [service(DB, "s_db")],
            "GET /tasks": [[task()]],
            "GET /nodes": [[]],
            "GET /essaim/wait": [{"Revision": 1}],
        }
    )
    assert essaim(host, "deploy", "-q", "--timeout", "100ms", "-c", file, "s") == 1
    assert capsys.readouterr().err.startswith("Error: s_web: timed out with 1 out of 2 tasks")


def test_masters_that_stay_away_end_the_wait_once_for_all_services(masters, file, capsys):
    started_s = now_s()
    host, _ = masters(
        {
            DEPLOY: [deployed((WEB, "web"), (DB, "db"))],
            "GET /networks/given": [GIVEN],
            f"GET /services/{WEB}": [Refusal(503, "no leader")],
            f"GET /services/{DB}": [Refusal(503, "no leader")],
        }
    )
    assert essaim(host, "deploy", "-q", "--timeout", "1s", "-c", file, "s") == 1
    assert capsys.readouterr().err == "Error: no leader\n"
    assert now_s() - started_s < MASTERS_AWAY_S_MAX


async def test_an_interrupted_deployment_goes_on_and_says_where_to_look(masters, file):
    host, master = masters(
        {
            DEPLOY: [deployed((WEB, "web"))],
            "GET /networks/given": [GIVEN],
            f"GET /services/{WEB}": [service(WEB, "s_web")],
            "GET /tasks": [[task("pending")]],
            "GET /nodes": [[]],
            "GET /essaim/wait": [{"Revision": 1}],
        }
    )
    words = ["deploy", "-q", "-c", file, "s"]
    code, printed = await interrupted(host, words, lambda: bool(master.bodies("GET /essaim/wait")))
    assert code == 0
    assert printed == (
        "Operation continuing in background.\nUse `essaim stack services s` to check progress.\n"
    )


def test_options_without_effect_are_named_before_anything_is_sent(masters, tmp_path, capsys):
    path = tmp_path / "c.yml"
    path.write_text("services: {web: {image: x, build: ., container_name: c}}")
    host, _ = masters({DEPLOY: [{"Networks": [], "Services": []}]})
    assert essaim(host, "deploy", "-d", "-c", str(path), "s") == 0
    assert capsys.readouterr().err == (
        "Ignoring unsupported options: build\n\n"
        "Ignoring deprecated options:\n\n"
        "container_name: Setting the container name is not supported.\n\n"
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("deploy s", 1, "specify a Compose file (with --compose-file)"),
        ("deploy -c {file}", 125, "Missing argument 'STACK'"),
        ("deploy -c /nowhere.yml s", 1, "open /nowhere.yml: No such file or directory"),
        ("deploy -c {dir} s", 1, "Is a directory"),
        ("deploy -c {bad} s", 1, "bad.yml: yaml: line "),
        ("deploy -c {file} --resolve-image sometimes s", 125, "sometimes"),
        ("deploy -c {file} --timeout soon s", 125, "invalid duration"),
        ("deploy -c {file} --orchestrator swarm s", 125, "--orchestrator"),
        ('deploy -c {file} ""', 1, 'invalid stack name: ""'),
        ("rm", 125, "Missing argument 'STACK...'"),
        ("rm ''", 1, "invalid stack name: "),
        ("ps", 125, "Missing argument 'STACK'"),
        ("services s -f x", 125, "write KEY=VALUE"),
        ("config", 1, "specify a Compose file"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything_is_sent(
    masters, file, tmp_path, capsys, words, code, said
):
    (tmp_path / "bad.yml").write_text("a: [")
    host, master = masters({})
    placed = words.format(file=file, dir=tmp_path, bad=tmp_path / "bad.yml")
    assert essaim(host, *shlex.split(placed)) == code
    printed = capsys.readouterr()
    assert printed.err.startswith("Error: ")
    assert said in printed.err
    assert master.heard == []


def test_deploy_sends_the_data_of_secrets_and_tells_what_became_of_them(masters, tmp_path, capsys):
    (tmp_path / "pass.txt").write_bytes(b"\x00s3cret")
    file = tmp_path / "compose.yml"
    file.write_text(
        "services: {web: {image: img, secrets: [pass]}}\n"
        "secrets: {pass: {file: pass.txt}}\nconfigs: {conf: {content: text}}\n"
    )
    answer = {
        **ANSWER,
        "Networks": [],
        "Services": [],
        "Secrets": [{"Name": "s_pass", "Id": "p" * 25, "Action": "created"}],
        "Configs": [
            {"Name": "s_conf", "Id": "c" * 25, "Action": "updated"},
            {"Name": "s_same", "Id": "d" * 25, "Action": "unchanged"},
        ],
    }
    host, master = masters({DEPLOY: [answer]})
    assert essaim(host, "deploy", "-d", "-c", str(file), "s") == 0
    assert capsys.readouterr().out.splitlines() == [
        "Creating secret s_pass",
        f"Updating config s_conf (id: {'c' * 25})",
    ]
    (body,) = master.bodies(DEPLOY)
    labels = {"com.docker.stack.namespace": "s"}
    data = base64.b64encode(b"\x00s3cret").decode()
    assert body["Secrets"] == [{"Name": "s_pass", "Labels": labels, "Data": data}]
    assert [one["Name"] for one in body["Configs"]] == ["s_conf"]
    assert essaim(host, "config", "-c", str(file)) == 0
    shown = capsys.readouterr().out
    assert f"file: {tmp_path}/pass.txt" in shown
    assert "s3cret" not in shown


STACK = {
    "GET /services": [[service(WEB, "s_web"), service(DB, "s_db")]],
    "GET /networks": [[{"Id": "f" * 25, "Name": "s_front"}]],
    "GET /secrets": [[{"ID": "p" * 25, "Spec": {"Name": "s_pass"}}]],
    "GET /configs": [[{"ID": "c" * 25, "Spec": {"Name": "s_conf"}}]],
    "GET /nodes": [[{"ID": "down", "Status": {"State": "down"}}]],
    "GET /essaim/wait": [{"Revision": 1}],
}


@pytest.mark.parametrize("word", ["rm", "down", "remove"])
def test_rm_names_what_goes_and_waits_until_it_is_gone(masters, capsys, word):
    tasks = [[task(), task("shutdown")], [task("shutdown"), task(node="down")]]
    host, master = masters({REMOVE: [{}], "GET /tasks": tasks, **STACK})
    assert essaim(host, word, "s") == 0
    assert capsys.readouterr().out.splitlines() == [
        "Removing service s_db",
        "Removing service s_web",
        "Removing secret s_pass",
        "Removing config s_conf",
        "Removing network s_front",
    ]
    assert len(master.bodies("GET /tasks")) == 2


def test_rm_asks_again_while_networks_are_in_use_and_when_its_master_is_lost(masters, capsys):
    used = Refusal(409, "stack s: network s_front is in use by task s_web.1.x")
    gone = Refusal(404, "nothing found in stack: s")
    host, first, second = masters(
        {REMOVE: [used, BREAK], **STACK}, {REMOVE: [gone], "GET /tasks": [[]], **STACK}
    )
    assert essaim(host, "rm", "s") == 0
    assert len(first.bodies(REMOVE)) == 2
    assert len(second.bodies(REMOVE)) == 1


def test_rm_outlasts_an_election(masters):
    host, master = masters(
        {REMOVE: [Refusal(503, "no leader"), {}], "GET /tasks": [[]], **STACK},
    )
    assert essaim(host, "rm", "s") == 0
    assert len(master.bodies(REMOVE)) == 2


def test_rm_does_not_ask_again_when_a_service_outside_of_the_stack_uses_a_network(masters, capsys):
    used = Refusal(400, "stack s: its services are removed, but network s_front is in use by x")
    host, master = masters({REMOVE: [used], **STACK})
    assert essaim(host, "rm", "s") == 1
    assert capsys.readouterr().err == f"Error: failed to remove stack s: {used.message}\n"
    assert len(master.bodies(REMOVE)) == 1


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        (
            {REMOVE: [Refusal(409, "in use")]},
            1,
            "Error: interrupted: to remove what is left: essaim stack rm s t\n",
        ),
        ({REMOVE: [{}]}, 0, "Operation continuing in background.\n"),
    ],
)
async def test_rm_that_is_interrupted_says_what_is_left_to_do(masters, script, code, said):
    """Its networks do not go by themselves."""
    host, master = masters({"GET /tasks": [[task()]], **script, **STACK})
    names = ["s", "t"] if code else ["s"]
    last = REMOVE if code else "GET /essaim/wait"
    done = await interrupted(host, ["rm", *names], lambda: bool(master.bodies(last)))
    assert done == (code, said)


def test_rm_ends_at_its_time_limit_with_the_reason(masters, capsys):
    used = Refusal(409, "network s_front is in use by task s_web.1.x")
    host, _ = masters({REMOVE: [used], **STACK})
    assert essaim(host, "rm", "--timeout", "10ms", "s") == 1
    assert capsys.readouterr().err == f"Error: failed to remove stack s: {used.message}\n"


def test_rm_of_several_goes_on_after_an_error_and_minds_nothing_that_is_not_there(masters, capsys):
    lists = {"GET /services": [[], [service(WEB, "t_web")]], "GET /networks": [[]]}
    lists |= {"GET /secrets": [[]], "GET /configs": [[]]}
    host, _ = masters({**lists, "DELETE /essaim/stacks/t": [{}], "GET /tasks": [[]]})
    assert essaim(host, "rm", "-d", "s", "t") == 0
    printed = capsys.readouterr()
    assert printed.err == "Nothing found in stack: s\n"
    assert printed.out == "Removing service t_web\n"


def test_lists(masters, capsys):
    host, _ = masters(
        {
            "GET /essaim/stacks": [
                [{"Name": "s-10", "Services": 3, "Networks": 1}, {"Name": "s-2", "Services": 1}]
            ],
            "GET /services": [[service(DB, "s_web-10"), service(WEB, "s_web-2")]],
            "GET /tasks": [[task()]],
            "GET /nodes": [[{"ID": "n1", "Description": {"Hostname": "h1"}}]],
        }
    )
    assert essaim(host, "ls") == 0
    assert capsys.readouterr().out == "NAME   SERVICES\ns-2    1\ns-10   3\n"
    assert essaim(host, "list", "--format", "{{.Name}} {{.Networks}}") == 0
    assert capsys.readouterr().out == "s-2 \ns-10 1\n"
    assert essaim(host, "services", "s", "--format", "{{.Name}} {{.Replicas}}") == 0
    assert capsys.readouterr().out == "s_web-2 1/1\ns_web-10 1/1\n"
    assert essaim(host, "services", "-q", "s") == 0
    assert capsys.readouterr().out.split() == [WEB[:12], DB[:12]]
    assert essaim(host, "ps", "--no-resolve", "s") == 0
    assert f"{WEB}.1" in capsys.readouterr().out
    assert essaim(host, "ps", "-f", "desired-state=running", "-q", "s") == 0
    assert capsys.readouterr().out.split() == ["t" * 25]


def test_lists_of_a_stack_that_is_not_there(masters, capsys):
    host, _ = masters({"GET /services": [[]], "GET /tasks": [[]]})
    assert essaim(host, "ps", "s") == 1
    assert capsys.readouterr().err == "Error: nothing found in stack: s\n"
    assert essaim(host, "services", "s") == 0
    printed = capsys.readouterr()
    assert printed.err == "Nothing found in stack: s\n"
    assert printed.out == ""


def test_config_prints_the_whole_with_variables_put_in(masters, file, capsys):
    host, master = masters({})
    assert essaim(host, "config", "-c", file) == 0
    assert "    image: img:1\n" in capsys.readouterr().out
    assert essaim(host, "config", "--skip-interpolation", "-c", file) == 0
    assert "    image: img:${TAG:-1}\n" in capsys.readouterr().out
    assert master.heard == []


def test_config_reads_standard_input(tmp_path):
    text = "services: {web: {image: x, volumes: ['./a:/b']}}"
    words = [sys.executable, "-m", "essaim_cli", "stack", "config", "-c", "-"]
    done = subprocess.run(words, input=text, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"source: {tmp_path}/a\n" in done.stdout
