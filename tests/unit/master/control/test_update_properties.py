"""What holds for every update, whatever is asked for and whatever happens meanwhile."""

from collections import Counter

import msgspec
from hypothesis import given, note, settings
from hypothesis import strategies as st
from support.update_bench import SECOND_NS, UpdateBench

from essaim_shared.spec import Limits, Resources, RestartPolicy, UpdateConfig

ORDERS = st.sampled_from(("stop-first", "start-first"))
ACTIONS = st.sampled_from(("pause", "continue", "rollback"))
GOOD = ("good:2", "slow-2s", "unready-3s")
NEVER_RUN = ("bad", "missing", "stuck")
BAD = (*NEVER_RUN, "crash-1s", "job-1s")
LONG_S = 2000
"""Longer than any of these updates takes, deadlines included."""

CONFIGS = st.fixed_dictionaries(
    {
        "parallelism": st.integers(0, 4),
        "delay": st.sampled_from((0, SECOND_NS, 7 * SECOND_NS)),
        "order": ORDERS,
        "monitor": st.sampled_from((2 * SECOND_NS, 5 * SECOND_NS)),
        "failure_action": ACTIONS,
    }
)


def check_rest(bench: UpdateBench) -> None:
    """Nothing moves any more, and no slot has two live tasks."""
    live = Counter(task.slot_key for task in bench.live)
    assert not [slot for slot, count in live.items() if count > 1]
    assert bench.stage.full_pass() == 0, "a second pass over an ordered state writes nothing"
    bench.stage.elect()
    assert bench.stage.full_pass() == 0, "nor does a new leader's first"


@given(CONFIGS, st.integers(1, 7), st.integers(1, 3), st.sampled_from(GOOD), st.booleans())
@settings(max_examples=150, deadline=None)
def test_an_update_to_a_good_template_completes_and_takes_no_more_slots_down_than_it_may(
    config, replicas, nodes, image, elects_always
):
    bench = UpdateBench(replicas, nodes=nodes, seed=replicas, **config)
    note(f"seed {replicas}")
    bench.stage.elects_always = elects_always
    bench.update(image)
    bench.advance(LONG_S)
    assert bench.images == [image] * replicas
    assert bench.state == "completed"
    if config["order"] == "start-first":
        assert bench.down_max == 0
    else:
        assert bench.down_max <= (config["parallelism"] or replicas)
        assert bench.surplus_max == 0
    check_rest(bench)


@given(CONFIGS, st.integers(1, 7), st.sampled_from(BAD), st.booleans())
@settings(max_examples=150, deadline=None)
def test_an_update_to_a_bad_template_is_paused_or_rolled_back(
    config, replicas, image, elects_always
):
    bench = UpdateBench(
        replicas,
        seed=replicas,
        restart=RestartPolicy(condition="none"),
        progress_deadline=60 * SECOND_NS,
        **config,
    )
    note(f"seed {replicas}")
    bench.stage.elects_always = elects_always
    bench.update(image)
    bench.advance(LONG_S)
    parallelism = config["parallelism"] or replicas
    old = bench.images.count("good:1")
    if config["failure_action"] == "rollback":
        assert bench.state == "rollback_completed"
        assert old == replicas
    else:
        assert bench.state == ("paused" if config["failure_action"] == "pause" else "completed")
    if config["failure_action"] == "pause" and image in NEVER_RUN:
        assert old >= replicas - parallelism
    if config["order"] == "start-first" and image in NEVER_RUN:
        assert bench.down_max == 0
    if (config["failure_action"], image) != ("continue", "stuck"):
        check_rest(bench)  # else the new tasks still try, beside the old ones


EVENTS = st.one_of(
    st.tuples(st.just("update"), st.sampled_from((*GOOD, *BAD, "good:1"))),
    st.tuples(st.just("configure"), CONFIGS),
    st.tuples(st.just("steps"), st.sampled_from(((20,), (10, 50), (100,)))),
    st.tuples(st.just("resize"), st.integers(1, 4)),
    st.tuples(st.just("scale"), st.integers(0, 6)),
    st.tuples(st.just("promote")),
    st.tuples(st.just("rollback")),
    st.tuples(st.just("drain"), st.integers(1, 3)),
    st.tuples(st.just("cut"), st.integers(1, 3)),
    st.tuples(st.just("heal"), st.integers(1, 3)),
    st.tuples(st.just("end"), st.integers(0, 9), st.sampled_from((0, 1))),
    st.tuples(st.just("elect")),
    st.tuples(st.just("slice")),
    st.tuples(st.just("advance"), st.sampled_from((0.5, 3.0, 20.0, 700.0))),
)


def happen(bench: UpdateBench, event: tuple) -> None:
    """Apply one event; those that make no sense at the moment do nothing."""
    kind, *rest = event
    match kind:
        case "update":
            bench.update(rest[0])
        case "configure":
            bench.configure(**rest[0])
        case "steps":
            config = bench.service.spec.update_config or UpdateConfig()
            bench.change(update_config=msgspec.structs.replace(config, steps=rest[0]))
        case "resize":
            bench.update(resources=Resources(limits=Limits(memory_bytes=rest[0] << 24)))
        case "scale":
            bench.scale(rest[0])
        case "promote" if bench.status is not None and bench.status.is_waiting:
            bench.promote()
        case "rollback" if bench.service.previous_spec is not None:
            bench.rollback()
        case "drain":
            bench.stage.change_node(f"n{rest[0]}", availability="drain")
        case "cut":
            bench.stage.set_node_state(f"n{rest[0]}", "down")
        case "heal":
            bench.stage.change_node(f"n{rest[0]}", availability="active")
            bench.stage.set_node_state(f"n{rest[0]}", "ready")
        case "end" if bench.running:
            bench.stage.end(bench.running[rest[0] % len(bench.running)], rest[1])
        case "elect":
            bench.stage.elect()
        case "slice":
            bench.stage.lead_once()
        case "advance":
            bench.advance(rest[0])


@given(st.lists(EVENTS, max_size=25), st.integers(2, 40))
@settings(max_examples=300, deadline=None)
def test_after_any_history_a_last_good_update_is_everywhere(events, slice_limit):
    bench = UpdateBench(3, seed=len(events), parallelism=1)
    note(f"seed {len(events)}")
    bench.stage.slice_limit = slice_limit
    for event in events:
        happen(bench, event)
    for number in (1, 2, 3):
        happen(bench, ("heal", number))
    bench.scale(4)
    bench.configure(parallelism=2)
    bench.update("good:9")
    bench.advance(LONG_S)
    assert bench.images == ["good:9"] * 4
    assert bench.state in ("completed", ""), "none, if no task of another template was left"
    check_rest(bench)
