"""Essaim's masters and etcd as key-value stores, side by side: durable, linearizable, 3 members.

    make bench-etcd       # or: .venv/bin/python bench/compare_etcd.py --rounds 3

Each round raises three processes of one peer on loopback, measures, removes them, and does the same
with the other one. Both sync every write, and both are asked by the same generator (this process)
through one pipelined connection to the leader: Essaim's native protocol there, here etcd's own gRPC
spoken by `etcd_client.py`. Keys and values are those of `etcdctl check perf` (256 and 1024 bytes),
whose own figure at `--load=xl` stands beside them. What is printed is the median over the rounds
with its spread, and the ratio of medians.
"""

import argparse
import asyncio
import os
import platform
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from kv_clusters import (
    MEMBERS,
    REFUSALS,
    Client,
    EssaimMasters,
    Etcd,
    KvCluster,
    OpenMasters,
    cpu_s,
    resident_bytes,
)

KINDS: tuple[type[KvCluster], ...] = (EssaimMasters, OpenMasters, Etcd)
IN_FLIGHT = (1, 16, 256, 1000)
READS_IN_FLIGHT = (1, 256)
KEY_PREFIX = b"/compare-etcd-bench/"
"""As long as that of `etcdctl check perf`, which refuses to run where it finds its own."""
KEY_BYTES = 256
VALUE = bytes(1024)
WARM_UP_S = 0.5
SECONDS_PER_RATE = 2.0
"""All rates of a round write new keys: together they must stay below the masters' quota."""
LIVE_BYTES = 100_000_000
PROBE_EVERY_S = 0.02
FAILOVER_TIMEOUT_S = 30.0
MIB = 1024 * 1024
CHECK_PERF = "`etcdctl check perf --load=xl`: writes/s"

Results = dict[tuple[str, str], list[float]]
"""(peer, what) → figures."""


def note(results: Results, peer: str, what: str, value: float) -> None:
    results[peer, what].append(value)
    print(f"  {peer:<11} {what:<52} {value:12.3f}", file=sys.stderr, flush=True)


class Keys:
    """Random keys, as `etcdctl check perf` writes them: 256 bytes after a prefix."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.written: list[bytes] = []

    def new(self) -> bytes:
        key = KEY_PREFIX + self._rng.randbytes(10) + bytes(KEY_BYTES - 10)
        if len(self.written) < 10_000:
            self.written.append(key)
        return key

    def known(self) -> bytes:
        return self._rng.choice(self.written)


async def load(call, in_flight: int, duration_s: float) -> tuple[float, list[float]]:
    """Calls a second, and the time that each took."""
    took: list[float] = []
    begin_s = time.perf_counter() + WARM_UP_S
    end_s = begin_s + duration_s

    async def work() -> None:
        while (start_s := time.perf_counter()) < end_s:
            await call()
            now_s = time.perf_counter()
            if start_s >= begin_s:
                took.append(now_s - start_s)

    await asyncio.gather(*(work() for _ in range(in_flight)))
    return len(took) / (time.perf_counter() - begin_s), took


async def measure_calls(cluster: KvCluster, results: Results, duration_s: float) -> None:
    leader = await cluster.leader()
    client = await cluster.client()
    keys = Keys(random.Random(1))
    pids = [process.pid for process in cluster.processes.values()]

    async def measure(what: str, call, in_flight: int) -> None:
        busy_s = sum(map(cpu_s, pids))
        rate, took = await load(call, in_flight, duration_s)
        busy_s = sum(map(cpu_s, pids)) - busy_s
        note(results, cluster.name, f"{what}/s, {in_flight} in flight", rate)
        if in_flight == 1:
            p50_ms = statistics.median(took) * 1000
            note(results, cluster.name, f"{what}, one at a time: p50, ms", p50_ms)
            p99_ms = sorted(took)[len(took) * 99 // 100] * 1000
            note(results, cluster.name, f"{what}, one at a time: p99, ms", p99_ms)
        cpu_us = busy_s / (rate * (duration_s + WARM_UP_S)) * 1e6
        note(results, cluster.name, f"{what}, {in_flight} in flight: CPU of 3 members, µs", cpu_us)

    for in_flight in IN_FLIGHT:
        await measure("puts", lambda: client.put(keys.new(), VALUE), in_flight)
    for in_flight in READS_IN_FLIGHT:
        await measure("linearizable reads", lambda: client.get(keys.known()), in_flight)
    rss = resident_bytes(cluster.processes[leader].pid)
    note(results, cluster.name, "memory of the leader after the load, MiB", rss / MIB)
    await client.close()


async def measure_state(cluster: KvCluster, results: Results) -> None:
    """Memory of a state of known size, and how long it takes to be back after a kill of all."""
    leader = await cluster.leader()
    empty = resident_bytes(cluster.processes[leader].pid)
    await cluster.fill(LIVE_BYTES)
    leader = await cluster.leader()
    full = resident_bytes(cluster.processes[leader].pid)
    note(results, cluster.name, "memory, empty, MiB", empty / MIB)
    note(
        results, cluster.name, "memory per byte of live data (100 MB)", (full - empty) / LIVE_BYTES
    )
    cluster.kill()
    start_s = time.monotonic()
    cluster.start()
    await cluster.ready()
    note(results, cluster.name, "100 MB state: kill -9 of all to first read, s", _since(start_s))
    leader = await cluster.all_follow()
    restarted = resident_bytes(cluster.processes[leader].pid)
    ratio = (restarted - empty) / LIVE_BYTES
    note(results, cluster.name, "memory per byte of live data, restarted", ratio)


async def measure_failover(cluster: KvCluster, results: Results, runs: int) -> None:
    took = []
    for run in range(runs):
        leader = await cluster.all_follow()
        survivors = tuple(member for member in MEMBERS if member != leader)
        clients = [await cluster.client((member,)) for member in survivors]
        start_s = time.monotonic()
        cluster.kill(leader)
        await first_write(clients, f"{run}".encode())
        took.append(_since(start_s))
        for client in clients:
            await client.close()
        cluster.start(leader)
    took.sort()
    note(results, cluster.name, "leader killed to first write: p50, s", statistics.median(took))
    p99 = took[min(len(took) - 1, len(took) * 99 // 100)]
    note(results, cluster.name, "leader killed to first write: p99, s", p99)


async def first_write(clients: list[Client], name: bytes) -> None:
    """Offer a write to each survivor again and again; return when one of them was accepted."""
    deadline_s = time.monotonic() + FAILOVER_TIMEOUT_S
    offered: set[asyncio.Future] = set()
    number = 0
    while time.monotonic() < deadline_s:
        number += 1
        for client in clients:
            key = b"/failover/%s/%d" % (name, number)
            offered.add(asyncio.ensure_future(client.put(key, b"")))
        done, offered = await asyncio.wait(
            offered, timeout=PROBE_EVERY_S, return_when=asyncio.FIRST_COMPLETED
        )
        if any(future.exception() is None for future in done):
            for future in offered:
                future.add_done_callback(lambda late: late.cancelled() or late.exception())
            return
        if not offered:
            await asyncio.sleep(PROBE_EVERY_S)
    raise TimeoutError("no write was accepted after the leader's end")


def measure_check_perf(cluster: Etcd, results: Results) -> None:
    try:
        text = cluster.etcdctl("check", "perf", "--load=xl")
    except REFUSALS as error:
        # It exits with 1 when the cluster is slower than it wants.
        text = f"{getattr(error, 'stdout', '')}{getattr(error, 'stderr', '')}"
    rate = re.search(r"[Tt]hroughput (?:is|too low:) (\d+)", text)
    slowest = re.search(r"[Ss]lowest request took (?:too long: )?([\d.]+)s", text)
    if rate is None:
        raise LookupError(f"etcdctl check perf says no throughput: {text}")
    note(results, "etcd", CHECK_PERF, float(rate[1]))
    if slowest is not None:
        note(results, "etcd", "`etcdctl check perf --load=xl`: slowest, s", float(slowest[1]))


async def one_round(directory: Path, results: Results, options: argparse.Namespace) -> None:
    for kind in KINDS:
        if kind.name not in options.peers:
            continue
        if "calls" in options.parts:
            cluster = await raised(kind, directory / "calls")
            try:
                await measure_calls(cluster, results, options.seconds)
                if isinstance(cluster, Etcd) and "check-perf" in options.parts:
                    await asyncio.to_thread(measure_check_perf, cluster, results)
            finally:
                cluster.stop()
        if "state" in options.parts:
            cluster = await raised(kind, directory / "state")
            try:
                await measure_state(cluster, results)
            finally:
                cluster.stop()


async def raised(kind: type[KvCluster], directory: Path) -> KvCluster:
    cluster = kind(directory)
    is_ready = False
    try:
        cluster.start()
        await cluster.ready()
        await cluster.all_follow()
        is_ready = True
    finally:
        if not is_ready:
            cluster.stop()
    return cluster


async def failovers(directory: Path, results: Results, options: argparse.Namespace) -> None:
    for kind in KINDS:
        if kind.name in options.peers:
            cluster = await raised(kind, directory / "failover")
            try:
                await measure_failover(cluster, results, options.failovers)
            finally:
                cluster.stop()


def table(results: Results, command: str, rounds: int) -> str:
    lines = [
        f"Median of {rounds} rounds (least … most); {platform.machine()}, {os.cpu_count()} cores; "
        f"`{command}`",
        "",
        "| what | Essaim | without TLS and sealing | etcd | ratio to etcd |",
        "|---|---:|---:|---:|---:|",
    ]
    own_figure = results.get(("etcd", CHECK_PERF), [])
    for what in dict.fromkeys(what for _, what in results):
        ours, theirs = results.get(("essaim", what)), results.get(("etcd", what))
        ratio = ""
        if ours and theirs and statistics.median(theirs):
            ratio = f"{statistics.median(ours) / statistics.median(theirs):.2f}"
        bare = _cell(results.get((OpenMasters.name, what)))
        lines.append(f"| {what} | {_cell(ours)} | {bare} | {_cell(theirs)} | {ratio} |")
    for in_flight in IN_FLIGHT:
        ours = results.get(("essaim", f"puts/s, {in_flight} in flight"))
        if ours and own_figure:
            ratio = statistics.median(ours) / statistics.median(own_figure)
            what = f"puts/s, {in_flight} in flight, beside etcd's `check perf`"
            lines.append(f"| {what} | {_cell(ours)} | – | {_cell(own_figure)} | {ratio:.2f} |")
    return "\n".join(lines)


def _cell(values: list[float] | None) -> str:
    if not values:
        return "–"
    median = statistics.median(values)
    digits = 0 if median >= 100 else 2
    if len(values) == 1:
        return f"{median:,.{digits}f}"
    return f"{median:,.{digits}f} ({min(values):,.{digits}f} … {max(values):,.{digits}f})"


def _since(start_s: float) -> float:
    return time.monotonic() - start_s


PARTS = ("calls", "check-perf", "state", "failover")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=SECONDS_PER_RATE, help="for each rate")
    parser.add_argument("--failovers", type=int, default=20)
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=[kind.name for kind in KINDS],
        default=("essaim", "etcd"),
        help="essaim-open: without TLS and sealing",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--directory", type=Path, help="for the members' data (default: temporary)")
    options = parser.parse_args()
    results: Results = defaultdict(list)
    base = Path(tempfile.mkdtemp(prefix="compare-etcd-", dir=options.directory))
    try:
        for number in range(options.rounds):
            print(f"round {number + 1}", file=sys.stderr, flush=True)
            asyncio.run(one_round(base / str(number), results, options))
            shutil.rmtree(base / str(number), ignore_errors=True)
        if "failover" in options.parts:
            asyncio.run(failovers(base, results, options))
    finally:
        shutil.rmtree(base)
    print(table(results, " ".join(["bench/compare_etcd.py", *sys.argv[1:]]), options.rounds))


if __name__ == "__main__":
    main()
