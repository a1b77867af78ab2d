"""Whole clusters under faults, from seeds; and the proof that a seed is a history."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sim.simulation import simulate

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 1000
TIME_LIMIT_S = 600


def run_simulator(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """In processes of its own, as `make sim` does."""
    return subprocess.run(
        [sys.executable, "-m", "sim.run", *arguments],
        cwd=ROOT / "tests",
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT_S,
    )


@pytest.mark.timeout(TIME_LIMIT_S + 60)
@pytest.mark.parametrize("first", [0, pytest.param(SEEDS, marks=pytest.mark.slow)])
def test_no_seed_breaks_a_promise(first: int) -> None:
    done = run_simulator("--seeds", str(SEEDS), "--first", str(first))
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_is_a_history():
    """The same in every process, whatever Python's hashes are, and whatever ran before."""
    first = run_simulator("--seed", "17", hash_seed="1")
    second = run_simulator("--seed", "17", hash_seed="2")
    simulate(3)
    assert first.returncode == 0, first.stdout + first.stderr
    history = first.stdout.partition("\n1 seeds")[0]
    assert '"trace"' in history
    assert history == second.stdout.partition("\n1 seeds")[0]


def test_other_seeds_are_other_histories():
    assert len({simulate(seed).trace for seed in range(5)}) == 5
