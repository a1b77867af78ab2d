"""Waiting, and masters that die in the middle: each command ends in the asked state, once."""

import pytest
from support.scripted_master import BREAK, Refusal

from essaim_cli.__main__ import run
from essaim_cli.client import RATE_WAITS_MAX
from essaim_cli.converge import MASTERS_AWAY_S_MAX
from essaim_cli.pace import now_s

ID = "s" * 25
TAKEN = Refusal(409, "name conflicts with an existing object: service web already exists")
OUT_OF_SEQUENCE = Refusal(500, "rpc error: code = Unknown desc = update out of sequence")
NO_LEADER = Refusal(503, "no leader")
FAST = {"UpdateConfig": {"Monitor": 1}}


def service(replicas=1, version=1, image="img:latest", update=None, **spec):
    shown = {
        "ID": ID,
        "Version": {"Index": version},
        "Spec": {
            "Name": "web",
            "Labels": {},
            "Mode": {"Replicated": {"Replicas": replicas}},
            "TaskTemplate": {"ContainerSpec": {"Image": image}, "ForceUpdate": 0},
            **FAST,
            **spec,
        },
    }
    return {**shown, "UpdateStatus": update} if update else shown


def task(state="running", err=""):
    return {
        "Slot": 1,
        "DesiredState": "running",
        "NodeID": "n1",
        "CreatedAt": "2026-01-01T00:00:00Z",
        "Status": {"State": state, "Err": err},
    }


def waiting(*services, tasks=None):
    """The routes that a wait asks."""
    return {
        f"GET /services/{ID}": services or [service()],
        "GET /tasks": [[task()]] if tasks is None else tasks,
        "GET /nodes": [[]],
        "GET /essaim/wait": [{"Revision": 1}],
    }


def essaim(host, *words):
    return run(["--host", host, "service", *words])


CREATE = "POST /services/create"
UPDATE = f"POST /services/{ID}/update"


def test_a_create_whose_answer_was_lost_is_found_by_its_name(masters, capsys):
    host, first, second = masters(
        {CREATE: [BREAK]}, {CREATE: [TAKEN], "GET /services/web": [service(UpdateConfig=None)]}
    )
    assert essaim(host, "create", "-d", "--name", "web", "img") == 0
    assert capsys.readouterr().out == f"{ID}\n"
    assert len(first.bodies(CREATE)) == len(second.bodies(CREATE)) == 1


def test_a_create_that_nobody_heard_is_made_by_the_next_master(masters, capsys):
    host, _, _ = masters({CREATE: [BREAK]}, {CREATE: [{"ID": ID}]})
    assert essaim(host, "create", "-d", "--name", "web", "img") == 0
    assert capsys.readouterr().out == f"{ID}\n"


def test_a_name_that_another_service_has_is_refused_even_after_a_lost_answer(masters, capsys):
    other = service(image="other:1")
    host, _, _ = masters({CREATE: [BREAK]}, {CREATE: [TAKEN], "GET /services/web": [other]})
    assert essaim(host, "create", "-d", "--name", "web", "img") == 1
    assert "already exists" in capsys.readouterr().err


def test_a_create_without_a_name_draws_one_so_that_it_can_be_repeated(masters):
    host, first, second = masters({CREATE: [BREAK]}, {CREATE: [{"ID": ID}]})
    assert essaim(host, "create", "-d", "img") == 0
    (sent,) = first.bodies(CREATE)
    assert sent["Name"]
    assert second.bodies(CREATE) == [sent], "the very same service is asked for again"


def test_a_drawn_name_that_is_taken_is_drawn_again(masters):
    host, master = masters({CREATE: [TAKEN, {"ID": ID}]})
    assert essaim(host, "create", "-d", "img") == 0
    names = {body["Name"] for body in master.bodies(CREATE)}
    assert len(master.bodies(CREATE)) == 2
    assert all(names), names


def test_an_update_that_was_heard_is_not_made_twice(masters):
    """`--cap-add` of a dropped capability takes the drop back; made again it would add it."""
    before = service()
    before["Spec"]["TaskTemplate"]["ContainerSpec"]["CapabilityDrop"] = ["CAP_KILL"]
    host, first, second = masters(
        {"GET /services/web": [before], UPDATE: [BREAK]},
        {"GET /services/web": [service(version=2)]},
    )
    assert essaim(host, "update", "-d", "--cap-add", "KILL", "web") == 0
    assert len(first.bodies(UPDATE)) == 1
    assert second.bodies(UPDATE) == []


def test_an_update_that_was_not_heard_is_made_by_the_next_master(masters):
    host, _, second = masters(
        {"GET /services/web": [service()], UPDATE: [BREAK]},
        {"GET /services/web": [service()], UPDATE: [{}]},
    )
    assert essaim(host, "scale", "-d", "web=3") == 0
    (sent,) = second.bodies(UPDATE)
    assert sent["Mode"] == {"Replicated": {"Replicas": 3}}


def test_a_forced_update_is_forced_once_though_others_write_in_between(masters):
    host, master = masters(
        {"GET /services/web": [service(), service(version=2)], UPDATE: [OUT_OF_SEQUENCE, {}]}
    )
    assert essaim(host, "update", "-d", "--force", "web") == 0
    assert [body["TaskTemplate"]["ForceUpdate"] for body in master.bodies(UPDATE)] == [1, 1]


@pytest.mark.parametrize("command", [("rollback",), ("update", "--rollback")])
def test_a_rollback_whose_answer_was_lost_is_not_rolled_back_again(masters, command):
    host, _, second = masters(
        {"GET /services/web": [service()], UPDATE: [BREAK]},
        {"GET /services/web": [service(version=2)], UPDATE: [OUT_OF_SEQUENCE]},
    )
    assert essaim(host, *command, "-d", "web") == 0
    assert len(second.bodies(UPDATE)) == 1


def test_a_version_that_is_out_of_sequence_from_the_start_is_refused(masters, capsys):
    promote = f"POST /essaim/services/{ID}/promote"
    host, _ = masters({"GET /services/web": [service()], promote: [OUT_OF_SEQUENCE]})
    assert essaim(host, "promote", "-d", "web") == 1
    assert "out of sequence" in capsys.readouterr().err


def test_a_wait_goes_on_with_the_next_master(masters, capsys):
    host, first, _ = masters(
        {CREATE: [{"ID": ID}], **waiting(), "GET /tasks": [[task("pending")], BREAK]}, waiting()
    )
    assert essaim(host, "create", "--name", "web", "img") == 0
    assert f"verify: Service {ID} converged" in capsys.readouterr().err
    assert len(first.bodies(CREATE)) == 1


def test_a_wait_outlasts_an_election(masters):
    host, _ = masters(
        {CREATE: [{"ID": ID}], **waiting(NO_LEADER, NO_LEADER, service())},
    )
    assert essaim(host, "create", "--name", "web", "img") == 0


def test_a_time_limit_also_ends_a_wait_for_masters_that_stay_away(masters, capsys):
    started_s = now_s()
    script = {CREATE: [{"ID": ID}], **waiting(), f"GET /services/{ID}": [NO_LEADER]}
    host, _ = masters(script)
    assert essaim(host, "create", "--timeout", "1s", "--name", "web", "img") == 1
    assert "no leader" in capsys.readouterr().err
    assert now_s() - started_s < MASTERS_AWAY_S_MAX


def test_a_service_that_is_removed_meanwhile_ends_the_wait(masters, capsys):
    gone = Refusal(404, "service web not found")
    host, _ = masters(
        {CREATE: [{"ID": ID}], **waiting(service(), gone, tasks=[[task("pending")]])},
    )
    assert essaim(host, "create", "--name", "web", "img") == 1
    assert "service web not found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("update", "code", "said"),
    [
        ({"State": "paused", "Message": "update paused due to failure of task t"}, 1,
         "Error: service update paused: update paused due to failure of task t"),
        ({"State": "rollback_paused", "Message": "why"}, 1, "Error: service rollback paused: why"),
        ({"State": "completed", "Message": "update completed"}, 0, ""),
    ],
)  # fmt: skip
def test_the_status_of_the_update_ends_the_wait(masters, capsys, update, code, said):
    shown = service(update=update)
    script = waiting(shown, tasks=[[task("pending")]])
    host, _ = masters({**script, "GET /services/web": [service()], UPDATE: [{}]})
    assert essaim(host, "update", "--image", "img:2", "web") == code
    assert said in capsys.readouterr().err


def test_a_rollback_is_told_while_it_happens_and_at_its_end(masters, capsys):
    started = service(update={"State": "rollback_started", "Message": "update rolled back"})
    done = service(update={"State": "rollback_completed", "Message": "rollback completed"})
    script = waiting(started, done, tasks=[[task("pending")], [task()]])
    host, _ = masters({**script, "GET /services/web": [service()], UPDATE: [{}]})
    assert essaim(host, "update", "--image", "img:2", "web") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "overall progress: rolling back update: 0 out of 1 tasks",
        "rollback: update rolled back",
    ]
    assert lines[-2:] == [f"verify: Service {ID} converged", "rollback: rollback completed"]


def test_a_step_that_is_done_ends_the_wait_with_how_to_go_on(masters, capsys):
    update = {"State": "paused", "StepsDone": 1, "WaitsForPromotion": True, "Message": "step 1"}
    stepped = service(update=update, UpdateConfig={"Steps": [10, 100], "Monitor": 1})
    script = waiting(stepped, tasks=[[task("pending")]])
    host, _ = masters({**script, "GET /services/web": [service()], UPDATE: [{}]})
    assert essaim(host, "update", "--image", "img:2", "web") == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "update step 1 of 2 (10%) done: run `essaim service promote web`"


def test_a_job_ends_without_a_monitor_period(masters, capsys):
    job = service(Mode={"ReplicatedJob": {"TotalCompletions": 1, "MaxConcurrent": 1}})
    job["JobStatus"] = {"JobIteration": {"Index": 0}}
    done = {**task("complete"), "Slot": 0, "JobIteration": {"Index": 0}}
    host, _ = masters({CREATE: [{"ID": ID}], **waiting(job, tasks=[[done]])})
    assert essaim(host, "create", "--name", "web", "--mode", "replicated-job", "img") == 0
    assert capsys.readouterr().err.splitlines() == [
        "job progress: 1 out of 1 complete",
        "job complete",
    ]


def test_a_job_with_a_schedule_is_not_waited_for(masters, capsys):
    cron = service(Schedule={"Expression": "@daily"})
    host, _ = masters({CREATE: [{"ID": ID}], **waiting(cron)})
    assert essaim(host, "create", "--name", "web", "--schedule", "@daily", "img") == 0
    assert "essaim service runs web" in capsys.readouterr().err


def test_a_refused_ingress_port_comes_with_what_to_write_instead(masters, capsys):
    said = "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"
    refused = Refusal(400, said)
    host, _ = masters({CREATE: [refused]})
    assert essaim(host, "create", "-d", "-p", "8080:80", "img") == 1
    assert "--publish target=80,published=8080,mode=host" in capsys.readouterr().err


def test_scale_names_the_service_that_it_could_not_scale(masters, capsys):
    everywhere = service(Mode={"Global": {}})
    host, _ = masters({"GET /services/web": [everywhere]})
    assert essaim(host, "scale", "-d", "web=2") == 1
    assert capsys.readouterr().err == (
        "Error: web: scale can only be used with replicated or replicated-job mode\n"
    )


TOO_OFTEN = Refusal(429, "user ann asks more than 5000 times a second", retry_after="0")


def test_who_is_turned_away_for_asking_too_often_asks_again(masters) -> None:
    """Also for a change: it was turned away before anything happened."""
    host, master = masters({CREATE: [TOO_OFTEN, TOO_OFTEN, {"ID": ID}]})
    assert essaim(host, "create", "-d", "--name", "web", "img") == 0
    assert len(master.bodies(CREATE)) == 3


def test_asking_too_often_ends(masters, capsys) -> None:
    host, master = masters({CREATE: [TOO_OFTEN]})
    assert essaim(host, "create", "-d", "--name", "web", "img") == 1
    assert len(master.bodies(CREATE)) == RATE_WAITS_MAX + 1
    assert "asks more than 5000 times a second" in capsys.readouterr().err
