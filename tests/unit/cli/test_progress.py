"""Swarm's rules of convergence (docker/cli, cli/command/service/progress/progress.go)."""

from essaim_cli.progress import measure


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
