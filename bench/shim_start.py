"""What the runtime shim adds to the start of a container.

    .venv/bin/python bench/shim_start.py --runs 300

The shim in front of a runc that does nothing, and that runc alone, in turn: the difference of the
two is the shim's own. The bundle is the one that an engine wrote; any namespace does for it.
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from essaim_agent import shim

RECORDED = Path(__file__).parent.parent / "tests/unit/agent/testdata/shim/recorded-20.10-host.json"
CONTAINER = "3f" * 32
WANTED_MS = 5.0


def took_ms(command: list[str]) -> tuple[float, float]:
    """Wall time, and the CPU's: on a machine that does more, only the second means something."""
    before, begun_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True)
    wall_s, after = time.perf_counter() - begun_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return wall_s * 1e3, cpu_s * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=300)
    runs: int = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        runc = directory / "runc"
        runc.write_text("#!/bin/sh\n")
        runc.chmod(0o755)
        installed = shim.install(directory, directory, runc)
        shim.link_namespace(directory, CONTAINER, "/proc/self/ns/uts")
        words = ["--root", "/r", "--log", f"{directory}/log", "--log-format", "json"]
        words += ["create", "--bundle", str(directory), "--pid-file", "/p", CONTAINER]
        alone, behind = [], []
        for _ in range(runs):
            shutil.copy(RECORDED, directory / "config.json")
            alone.append(took_ms([str(runc), *words]))
            behind.append(took_ms([str(installed), *words]))
    for kind, number in (("wall time", 0), ("CPU", 1)):
        added = [there[number] - here[number] for there, here in zip(behind, alone, strict=True)]
        low, middle, high = statistics.quantiles(added, n=4)
        print(
            f"{kind}: runc of nothing {statistics.median(here[number] for here in alone):.2f} ms; "
            f"the shim adds {middle:.2f} ms (quartiles {low:.2f} and {high:.2f}), "
            f"wanted {WANTED_MS:g} at most"
        )


if __name__ == "__main__":
    main()
