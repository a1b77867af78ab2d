"""Run seeds: `make sim SEEDS=2000`, or one of them again: `make sim SEED=42`.

Every seed is a world of its own, so they are spread over processes. What is printed for a failing
seed (its options and one command) is all that is needed to see it fail again.
"""

import argparse
import gc
import logging
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from sim.simulation import Report, simulate

from essaim_shared.clock import SystemClock

SEEDS_PER_TASK = 25
FAILURES_SHOWN_MAX = 5
REGRESSIONS = Path(__file__).with_name("regressions.txt")


class Totals(msgspec.Struct):
    seeds: int = 0
    simulated_s: float = 0.0
    events: int = 0
    entries: int = 0
    operations: int = 0
    acknowledged: int = 0
    terms: int = 0
    changes: int = 0
    faults: int = 0
    crashes: int = 0
    corrupt: int = 0
    restores: int = 0

    def add(self, report: Report) -> None:
        self.seeds += 1
        for name in self.__struct_fields__[1:]:
            setattr(self, name, getattr(self, name) + getattr(report, name))


def run_seeds(task: tuple[tuple[int, ...], float | None]) -> list[Report]:
    """Run in a worker. Cycles are collected between seeds, not in the midst of them."""
    logging.disable(logging.CRITICAL)
    gc.disable()
    seeds, phase_one_s = task
    reports = [simulate(seed, phase_one_s) for seed in seeds]
    gc.collect()
    return reports


def run_all(seeds: Sequence[int], processes: int, phase_one_s: float | None) -> Iterator[Report]:
    size = max(1, min(SEEDS_PER_TASK, len(seeds) // processes))
    tasks = [
        (tuple(seeds[start : start + size]), phase_one_s) for start in range(0, len(seeds), size)
    ]
    if processes == 1 or len(tasks) == 1:
        for seed in seeds:
            yield from run_seeds(((seed,), phase_one_s))
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for reports in pool.imap_unordered(run_seeds, tasks):
            yield from reports


def regression_seeds() -> list[int]:
    """Seeds that once found something, with what they found behind them."""
    lines = (line.partition("#")[0].strip() for line in REGRESSIONS.read_text().splitlines())
    return [int(line) for line in lines if line]


def command_of(report: Report, phase_one_s: float | None) -> str:
    extra = "" if phase_one_s is None else f" PHASE_ONE_S={phase_one_s:g}"
    return f"make sim SEED={report.options.seed}{extra}"


def describe_failure(report: Report, phase_one_s: float | None) -> str:
    lines = [f"seed {report.options.seed} FAILED after {report.simulated_s:.3f} simulated s:"]
    lines += [f"  {violation}" for violation in report.violations[:FAILURES_SHOWN_MAX]]
    lines.append(f"  options: {msgspec.json.encode(report.options).decode()}")
    lines.append(f"  again:   {command_of(report, phase_one_s)}")
    return "\n".join(lines)


def describe_totals(totals: Totals, wall_s: float, processes: int) -> str:
    hours = totals.simulated_s / 3600
    rate = totals.simulated_s / wall_s
    return (
        f"{totals.seeds} seeds, {hours:.2f} simulated hours in {wall_s:.0f} s: {rate:.0f} "
        f"simulated hours per wall hour with {processes} processes\n"
        f"{totals.events} events, {totals.entries} entries, {totals.operations} calls "
        f"({totals.acknowledged} answered), {totals.terms} terms, {totals.changes} changes of "
        f"members, {totals.faults} faults, "
        f"{totals.crashes} crashes, {totals.restores} snapshots restored, "
        f"{totals.corrupt} damaged disks refused"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one only, with its report")
    parser.add_argument("--phase-one-s", type=float, help="simulated seconds under faults")
    parser.add_argument("--until-failure", action="store_true", help="stop at the first one")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    clock, totals, failures = SystemClock(), Totals(), 0
    started_s = clock.monotonic_s()
    if options.seed is not None:
        seeds, processes = [options.seed], 1
    else:
        seeds = list(range(options.first, options.first + options.seeds))
        if not options.until_failure:
            seeds = list(dict.fromkeys(regression_seeds() + seeds))
        processes = options.processes
    for report in run_all(seeds, processes, options.phase_one_s):
        totals.add(report)
        if report.violations:
            failures += 1
            if options.until_failure:
                print(describe_failure(report, options.phase_one_s), flush=True)
                return 1
            if failures <= FAILURES_SHOWN_MAX:
                print(describe_failure(report, options.phase_one_s), flush=True)
        if options.seed is not None:
            print(msgspec.json.format(msgspec.json.encode(report), indent=1).decode())
    print(describe_totals(totals, clock.monotonic_s() - started_s, processes))
    print(f"{failures} seeds failed" if failures else "no seed failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
