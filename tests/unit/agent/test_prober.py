"""When a probe is asked and what its answers come to, on a clock that a test moves."""

import itertools
import random

import msgspec
import pytest

from essaim_agent.probes.prober import (
    PERIOD_MIN_S,
    SPREAD,
    VERDICTS,
    Answer,
    Beginning,
    Kind,
    Prober,
    Verdict,
    new_prober,
    probe_of,
)
from essaim_shared.container_spec import Probe, Probes, TcpAction

SEED = 29
SECOND_NS = 1_000_000_000
ANSWERS = {"+": Answer.SUCCESS, "-": Answer.FAILURE, "?": Answer.UNKNOWN}
STARTED = Beginning(now_s=100.0, started_s=100.0, is_taken_over=False, is_ready=False)


def probe(**fields: int) -> Probe:
    return Probe(tcp=TcpAction(port=80), **fields)


def begun(kind: Kind, asked: Probe, beginning: Beginning = STARTED) -> Prober:
    return new_prober(kind, asked, beginning, random.Random(SEED))


def verdicts(prober: Prober, answers: str) -> list[Verdict | None]:
    return [prober.answered(ANSWERS[answer]) for answer in answers]


def test_the_table_knows_every_verdict_and_answer() -> None:
    assert set(VERDICTS) == set(itertools.product(Verdict, Answer))


@pytest.mark.parametrize(
    ("kind", "answers", "verdict"),
    [
        (Kind.STARTUP, "", Verdict.UNDECIDED),
        (Kind.STARTUP, "--", Verdict.UNDECIDED),
        (Kind.STARTUP, "--+", Verdict.SUCCEEDED),
        (Kind.STARTUP, "---", Verdict.FAILED),
        (Kind.READINESS, "", Verdict.FAILED),
        (Kind.READINESS, "+", Verdict.SUCCEEDED),
        (Kind.READINESS, "+--", Verdict.SUCCEEDED),
        (Kind.READINESS, "+---", Verdict.FAILED),
        (Kind.READINESS, "+---+", Verdict.SUCCEEDED),
        (Kind.LIVENESS, "", Verdict.SUCCEEDED),
        (Kind.LIVENESS, "--+--", Verdict.SUCCEEDED),
        (Kind.LIVENESS, "---", Verdict.FAILED),
        (Kind.LIVENESS, "-?-?", Verdict.SUCCEEDED),
        (Kind.LIVENESS, "-?-?-", Verdict.FAILED),
        (Kind.LIVENESS, "???????", Verdict.SUCCEEDED),
    ],
)
def test_what_answers_come_to_with_the_default_thresholds(
    kind: Kind, answers: str, verdict: Verdict
) -> None:
    prober = begun(kind, probe())
    verdicts(prober, answers)
    assert prober.verdict is verdict


def test_successes_too_may_have_to_come_in_a_row() -> None:
    prober = begun(Kind.READINESS, probe(success_threshold=2))
    assert verdicts(prober, "+-+") == [None, None, None]
    assert verdicts(prober, "+") == [Verdict.SUCCEEDED]


def test_a_verdict_is_told_again_with_each_answer_that_prolongs_its_run() -> None:
    prober = begun(Kind.READINESS, probe(failure_threshold=2))
    assert verdicts(prober, "+--?-") == [
        Verdict.SUCCEEDED,
        None,
        Verdict.FAILED,
        None,
        Verdict.FAILED,
    ]


def test_a_fresh_container_is_asked_once_its_initial_delay_has_passed() -> None:
    assert begun(Kind.STARTUP, probe()).due_s == 100.0
    assert begun(Kind.STARTUP, probe(initial_delay=5 * SECOND_NS)).due_s == 105.0


def test_the_initial_delay_counts_from_the_containers_start() -> None:
    asked = probe(initial_delay=30 * SECOND_NS)
    later = msgspec.structs.replace(STARTED, now_s=120.0)
    assert begun(Kind.LIVENESS, asked, later).due_s == 130.0
    assert begun(Kind.LIVENESS, asked, msgspec.structs.replace(STARTED, now_s=900.0)).due_s == 900.0


@pytest.mark.parametrize("started_s", [-1e12, 1e12])
def test_a_start_that_a_wrong_clock_dated_delays_the_first_question_no_longer_than_asked(
    started_s: float,
) -> None:
    beginning = msgspec.structs.replace(STARTED, started_s=started_s)
    due_s = begun(Kind.LIVENESS, probe(initial_delay=30 * SECOND_NS), beginning).due_s
    assert 100.0 <= due_s <= 130.0


def test_periods_count_from_question_to_question_and_are_never_shorter_than_asked() -> None:
    prober = begun(Kind.LIVENESS, probe(period=10 * SECOND_NS))
    asked_s = []
    for _ in range(5):
        asked_s.append(prober.due_s)
        prober.begin(prober.due_s)
        prober.answered(Answer.SUCCESS)
    pauses_s = [after - before for before, after in itertools.pairwise(asked_s)]
    assert 10.0 < pauses_s[0] <= 10.0 * (1 + SPREAD)
    assert pauses_s[1:] == pytest.approx([10.0, 10.0, 10.0])


@pytest.mark.parametrize("period", [0, -1, 1])
def test_no_period_keeps_the_node_busy(period: int) -> None:
    prober = begun(Kind.LIVENESS, probe(period=period))
    prober.begin(100.0)
    assert prober.due_s >= 100.0 + PERIOD_MIN_S


@pytest.mark.parametrize("is_taken_over", [False, True])
def test_two_hundred_tasks_do_not_keep_step(is_taken_over: bool) -> None:
    """Those that started together part with the second question, those of an agent that was
    restarted with the first."""
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    beginning = msgspec.structs.replace(STARTED, is_taken_over=is_taken_over)
    probers = [new_prober(Kind.LIVENESS, probe(), beginning, rng) for _ in range(200)]
    if not is_taken_over:
        for prober in probers:
            prober.begin(prober.due_s)
    in_each_quarter = [int(prober.due_s * 4) for prober in probers]
    assert max(map(in_each_quarter.count, in_each_quarter)) <= 40


def test_readiness_is_taken_over_as_it_was_reported() -> None:
    ready = Beginning(now_s=100.0, started_s=0.0, is_taken_over=True, is_ready=True)
    prober = begun(Kind.READINESS, probe(), ready)
    assert prober.verdict is Verdict.SUCCEEDED
    assert verdicts(prober, "--") == [None, None]


def test_each_kind_finds_its_probe() -> None:
    probes = Probes(startup=probe(period=1), readiness=probe(period=2), liveness=probe(period=3))
    assert [probe_of(probes, kind) for kind in Kind] == [
        probes.startup,
        probes.readiness,
        probes.liveness,
    ]
    assert [probe_of(Probes(), kind) for kind in Kind] == [None, None, None]
