"""Swarm's rules of convergence (docker/cli, cli/command/service/progress/progress.go)."""

from essaim_cli.progress import measure, waiting_step


def service(replicas):
    return {"Spec": {"Mode": {"Replicated": {"Replicas": replicas}}}}


def task(slot, state, desired="running", node="n1", err="", at=1):
    status = {"State": state, **({"Err": err} if err else {})}
    created_at = f"2026-01-01T00:00:{at:02}.000000000Z"
    return {
        "Slot": slot,
        "DesiredState": desired,
        "NodeID": node,
        "Status": status,
        "CreatedAt": created_at,
    }


def test_a_service_has_converged_once_every_slot_runs():
    tasks = [task(1, "running"), task(2, "starting")]
    progress = measure(service(2), tasks, frozenset())
    assert progress.headline == "overall progress: 1 out of 2 tasks"
    assert not progress.is_converged
    assert measure(service(2), [task(1, "running"), task(2, "running")], frozenset()).is_converged


def test_of_a_slot_the_lowest_desired_then_the_lowest_observed_state_counts():
    waiting = task(1, "ready", desired="ready")
    assert not measure(service(1), [task(1, "running"), waiting], frozenset()).is_converged
    assert not measure(service(1), [task(1, "running"), task(1, "new")], frozenset()).is_converged


def test_tasks_on_nodes_that_are_down_do_not_count():
    progress = measure(service(1), [task(1, "running", node="dead")], frozenset({"dead"}))
    assert progress.running == 0


def test_ended_and_removed_tasks_do_not_count():
    tasks = [task(1, "failed", desired="shutdown"), task(1, "running", desired="remove")]
    assert measure(service(1), tasks, frozenset()).running == 0


def test_a_service_without_replicas_has_converged():
    assert measure(service(0), [], frozenset()).is_converged


def test_the_bars_show_every_slot_and_its_error():
    tasks = [task(1, "running"), task(3, "pending", err="no suitable node (" + "x" * 80)]
    progress = measure(service(3), tasks, frozenset())
    assert [str(bar) for bar in progress.bars] == [
        "1/3: running   [=========>]",
        "2/3:           [>         ]",
        "3/3: no suitable node (" + "x" * 56 + "…",
    ]
    assert progress.blockers == ("no suitable node (" + "x" * 56 + "…",)


def test_the_reason_of_a_failure_stays_in_view_until_the_replacement_runs():
    failed = task(1, "rejected", desired="shutdown", err="No such image: x", at=1)
    for state, desired in (("ready", "ready"), ("preparing", "running")):
        progress = measure(service(1), [task(1, state, desired, at=2), failed], frozenset())
        assert progress.blockers == ("No such image: x",)
        assert str(progress.bars[0]) == "1/1: No such image: x"
    running = measure(service(1), [task(1, "running", at=2), failed], frozenset())
    assert running.blockers == ()
    assert running.bars[0].error == ""


def test_only_how_the_last_attempt_ended_is_told():
    tasks = [
        task(1, "ready", desired="ready", at=3),
        task(1, "shutdown", desired="shutdown", at=2),
        task(1, "failed", desired="shutdown", err="task: non-zero exit (1)", at=1),
    ]
    assert measure(service(1), tasks, frozenset()).blockers == (), "drained since it failed"


def test_above_twenty_tasks_only_the_headline_is_drawn():
    assert measure(service(21), [], frozenset()).bars == ()


def global_service(mode="Global", **more):
    return {"Spec": {"Mode": {mode: {}}}, **more}


def on_node(node, state, iteration=None, **more):
    shown = task(0, state, node=node, **more)
    del shown["Slot"]
    return shown if iteration is None else {**shown, "JobIteration": {"Index": iteration}}


def test_a_global_service_waits_for_its_tasks_and_labels_them_by_node():
    progress = measure(global_service(), [], frozenset())
    assert progress.headline == "overall progress: waiting for new tasks"
    assert not progress.is_converged
    tasks = [on_node("b" * 25, "running"), on_node("a" * 25, "preparing")]
    progress = measure(global_service(), tasks, frozenset())
    assert progress.headline == "overall progress: 1 out of 2 tasks"
    assert [str(bar) for bar in progress.bars] == [
        "aaaaaaaaaaaa: preparing [======>   ]",
        "bbbbbbbbbbbb: running   [=========>]",
    ]


def test_a_rollback_is_in_the_headline():
    for state in ("rollback_started", "rollback_completed"):
        rolling = {**service(2), "UpdateStatus": {"State": state}}
        headline = measure(rolling, [task(1, "running")], frozenset()).headline
        assert headline == "overall progress: rolling back update: 1 out of 2 tasks"


def test_a_task_whose_readiness_probe_fails_does_not_count_yet():
    waiting = task(1, "running")
    waiting["Status"]["Ready"] = False
    progress = measure(service(1), [waiting], frozenset())
    assert progress.headline == "overall progress: 0 out of 1 tasks (1 not ready)"
    assert str(progress.bars[0]) == "1/1: not ready [=========>]"
    assert not progress.is_converged


def job(total, concurrent, run=0):
    mode = {"ReplicatedJob": {"TotalCompletions": total, "MaxConcurrent": concurrent}}
    return {"Spec": {"Mode": mode}, "JobStatus": {"JobIteration": {"Index": run}}}


def job_task(slot, state, run=0, **more):
    desired = more.pop("desired", "complete")
    return {**task(slot, state, desired, **more), "JobIteration": {"Index": run}}


def test_a_job_counts_completions_and_active_tasks():
    tasks = [
        job_task(0, "complete"),
        job_task(1, "running"),
        job_task(2, "failed", err="task: non-zero exit (1)", at=1),
    ]
    progress = measure(job(10, 3), tasks, frozenset())
    assert progress.headline == "job progress:  1 out of 10 complete"
    assert progress.detail == "active tasks: 1 out of 3 tasks"
    assert [str(bar) for bar in progress.bars[:4]] == [
        "1/10: complete  [==========>]",
        "2/10: running   [=========> ]",
        "3/10: task: non-zero exit (1)",
        "4/10:           [>          ]",
    ]
    assert progress.blockers == ("task: non-zero exit (1)",)


def test_a_failure_before_a_completion_is_forgotten():
    tasks = [job_task(0, "complete", at=1), job_task(0, "failed", err="late", at=2)]
    assert measure(job(1, 1), tasks, frozenset()).is_converged


def test_only_the_present_run_of_a_job_counts():
    tasks = [job_task(0, "complete", run=0), job_task(0, "running", run=1)]
    progress = measure(job(1, 1, run=1), tasks, frozenset())
    assert (progress.running, progress.is_converged) == (0, False)


def test_a_global_job_is_complete_once_every_node_has_completed():
    status = {"JobStatus": {"JobIteration": {"Index": 0}}}
    waiting = measure(global_service("GlobalJob", **status), [], frozenset())
    assert waiting.headline == "job progress: waiting for tasks"
    assert not waiting.is_converged
    tasks = [on_node("n1", "complete", 0), on_node("n2", "complete", 0)]
    done = measure(global_service("GlobalJob", **status), tasks, frozenset())
    assert done.headline == "job progress: 2 out of 2 complete"
    assert done.is_converged


def test_a_step_that_waits_to_be_promoted_says_how():
    stepped = {
        "Spec": {"Name": "web", "UpdateConfig": {"Steps": [10, 50, 100]}},
        "UpdateStatus": {"State": "paused", "StepsDone": 1, "WaitsForPromotion": True},
    }
    assert waiting_step(stepped) == (
        "update step 1 of 3 (10%) done: run `essaim service promote web`"
    )
    stepped["UpdateStatus"]["WaitsForPromotion"] = False
    assert waiting_step(stepped) == ""
