"""Known bugs, put into copies of the code one by one: the simulator must find each of them.

A checker that never fails proves nothing. Each file in `mutations/` names a rule, the lines of the
real code that keep it, and what stands there in the mutated copy. It must be found within the
stated number of seeds, or by the one test that is named where a whole cluster cannot show it. A
mutation whose lines are gone from the code fails too: the rule moved, so its proof must move.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
MUTATIONS = Path(__file__).with_name("mutations")
PACKAGES = ("master", "shared")
TIME_LIMIT_S = 300


class Mutation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: str
    """What the real lines keep."""
    file: str
    find: str
    """Must stand in the file exactly once."""
    replace: str
    seeds: int = 0
    """Within so many the simulator finds it."""
    test: str = ""
    """Finds it instead of the simulator."""


class Verdict(msgspec.Struct, frozen=True):
    is_caught: bool
    how: str


def names() -> list[str]:
    return sorted(path.stem for path in MUTATIONS.glob("*.toml"))


def load(name: str) -> Mutation:
    with (MUTATIONS / f"{name}.toml").open("rb") as file:
        return msgspec.convert(tomllib.load(file), Mutation)


@contextmanager
def mutated_copy(mutation: Mutation) -> Iterator[Path | None]:
    """A copy of the packages with the mutation in it; None if it does not apply."""
    with tempfile.TemporaryDirectory(prefix="essaim-mutation-") as directory:
        copy = Path(directory)
        for package in PACKAGES:
            shutil.copytree(
                ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        path = copy / mutation.file
        text = path.read_text() if path.is_file() else ""
        if text.count(mutation.find) != 1:
            yield None
            return
        path.write_text(text.replace(mutation.find, mutation.replace))
        yield copy


def judge(name: str) -> Verdict:
    """Put one bug in and look for it."""
    mutation = load(name)
    with mutated_copy(mutation) as copy:
        if copy is None:
            return Verdict(False, f"it no longer applies to {mutation.file}")
        if mutation.test:
            return _judge_by_test(mutation, copy)
        return _judge_by_seeds(mutation, copy)


def _run(copy: Path, directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """The mutated packages stand before the installed ones."""
    path = os.pathsep.join([*(str(copy / package) for package in PACKAGES), str(ROOT / "tests")])
    return subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT_S,
    )


def _judge_by_seeds(mutation: Mutation, copy: Path) -> Verdict:
    done = _run(
        copy,
        ROOT / "tests",
        *("-m", "sim.run", "--until-failure", "--processes", "1", "--seeds", str(mutation.seeds)),
    )
    found = re.search(r"seed (\d+) FAILED.*\n +(.*)", done.stdout)
    if done.returncode == 1 and found is not None:
        return Verdict(True, f"by seed {found[1]} (of {mutation.seeds}): {found[2]}")
    if done.returncode == 0:
        return Verdict(False, f"not found by {mutation.seeds} seeds")
    return Verdict(False, f"the simulator did not run: {done.stderr[-500:]}")


def _judge_by_test(mutation: Mutation, copy: Path) -> Verdict:
    done = _run(copy, ROOT, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutation.test)
    if done.returncode == 1:
        return Verdict(True, f"by {mutation.test}")
    return Verdict(False, f"{mutation.test} ended with {done.returncode}: {done.stdout[-500:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mutations", nargs="*", help="their names; all by default")
    chosen = parser.parse_args().mutations or names()
    missed = 0
    for name in chosen:
        verdict = judge(name)
        missed += not verdict.is_caught
        print(f"{'caught' if verdict.is_caught else 'MISSED'}  {name}: {verdict.how}", flush=True)
    print(f"{missed} of {len(chosen)} missed" if missed else f"all {len(chosen)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
