"""Essaim, Docker Swarm and plain Docker calls side by side: one lab, one run, the same requests.

    make bench            # or: .venv/bin/python bench/compare_swarm.py --rounds 3

Each round raises the same three hosts for each peer in turn, so that a slow minute of the
machine hits all of them. What is printed is the median over the rounds with its spread, and the
ratio of medians. The network is not the same: Essaim's tasks are on its VXLAN overlay, Swarm's and
the plain calls' on the engine's own bridge, which is the cheaper one for them.
"""

import argparse
import json
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from engine_api import ApiFailure, EngineApi
from essaim_cli.lab.driver import Lab
from essaim_cli.lab.state import roots
from essaim_cli.lab.topology import Host, Topology
from essaim_shared.clock import SystemClock
from peers import Essaim, PlainCalls, Swarm, SwarmLike, container_count, lab, wait_for

NAME = "bench"
SCALES = ((1, 10), (10, 100), (1, 200))
CUT_REPLICAS = 12
UPDATE_REPLICAS = 50
UPDATE_PARALLELISM = 10
DEFINITIONS = {1: 300, 16: 60}
"""Clients → services that each of them creates."""
WRITE_TIMEOUT_S = 1.0
IDLE_S = 10.0

Results = dict[tuple[str, str], list[float]]
"""(peer, what) → a figure for each round."""


@contextmanager
def timed(results: Results, peer: str, what: str) -> Iterator[None]:
    start_s = time.monotonic()
    yield
    took_s = time.monotonic() - start_s
    results[peer, what].append(took_s)
    print(f"  {peer:<7} {what:<42} {took_s:8.2f} s", file=sys.stderr, flush=True)


def note(results: Results, peer: str, what: str, value: float) -> None:
    results[peer, what].append(value)
    print(f"  {peer:<7} {what:<42} {value:8.2f}", file=sys.stderr, flush=True)


def measure_cluster(peer: SwarmLike, results: Results, cuts: bool) -> None:
    first = peer.api(peer.topology.hosts[0])
    # Before anything runs: the kernel is busy for a while with what a removal leaves behind.
    measure_definitions(peer, results)
    measure_create_and_scale(peer, first, results)
    measure_rolling_update(peer, first, results)
    if cuts:
        measure_host_cut(peer, results)
        measure_leader_cut(peer, results)


def measure_create_and_scale(peer: SwarmLike, api: EngineApi, results: Results) -> None:
    for low, high in SCALES:
        with timed(results, peer.name, f"create {low}"):
            service = peer.create(api, f"scale{low}to{high}", low)
            wait_for(lambda: peer.running(api, service) == low, "created")  # noqa: B023
        with timed(results, peer.name, f"scale {low} to {high}"):
            peer.scale(api, service, high)
            wait_for(lambda: peer.running(api, service) == high, "scaled", 0.05)  # noqa: B023
        with timed(results, peer.name, f"remove {high}"):
            api.delete(f"/services/{service}")
            wait_for(lambda: container_count(peer.topology) == 0, "removed", 0.05)


def measure_rolling_update(peer: SwarmLike, api: EngineApi, results: Results) -> None:
    """All replicas replaced, some at a time and stop-first, without any delay between them."""
    service = peer.create(api, "rolling", UPDATE_REPLICAS)
    wait_for(lambda: peer.running(api, service) == UPDATE_REPLICAS, "created")
    with timed(results, peer.name, f"rolling update of {UPDATE_REPLICAS}"):
        peer.update(api, service, UPDATE_PARALLELISM)
        wait_for(lambda: peer.updated(api, service) == UPDATE_REPLICAS, "updated", 0.05)
    api.delete(f"/services/{service}")
    wait_for(lambda: container_count(peer.topology) == 0, "removed", 0.05)


def measure_definitions(peer: SwarmLike, results: Results) -> None:
    """Services without replicas created a second: the cost of a definition alone."""
    for clients, definitions in DEFINITIONS.items():
        made: list[str] = []
        hosts = peer.topology.hosts

        def work(number: int) -> None:
            api = peer.api(hosts[number % len(hosts)])  # noqa: B023
            for turn in range(definitions):  # noqa: B023
                made.append(peer.create(api, f"def{number}x{turn}", 0))  # noqa: B023

        threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
        start_s = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rate = len(made) / (time.monotonic() - start_s)
        note(results, peer.name, f"definitions per second, {clients} clients", rate)
        api = peer.api(hosts[0])
        for service in made:
            api.delete(f"/services/{service}")


def measure_host_cut(peer: SwarmLike, results: Results) -> None:
    """A follower's host loses its cable: until all replicas run on the others."""
    leader = peer.leader()
    victim = next(host for host in reversed(peer.topology.hosts) if host != leader)
    api = peer.api(leader)
    service = peer.create(api, "survivor", CUT_REPLICAS)
    wait_for(lambda: peer.running(api, service) == CUT_REPLICAS, "survivor runs")
    lost = peer.node_id(api, victim)
    lab("cut", "--name", NAME, victim.name)
    with timed(results, peer.name, "host cut off to replicas elsewhere"):
        wait_for(lambda: peer.running(api, service, not_on=lost) == CUT_REPLICAS, "moved", 0.05)
    lab("heal", "--name", NAME, victim.name)
    wait_for(lambda: _all_ready(peer, api), "healed", 0.2)
    api.delete(f"/services/{service}")
    wait_for(lambda: container_count(peer.topology) == 0, "removed", 0.1)


def measure_leader_cut(peer: SwarmLike, results: Results) -> None:
    """The leader's host loses its cable: until another master accepts a write."""
    leader = peer.leader()
    others = [host for host in peer.topology.hosts if host != leader]
    lab("cut", "--name", NAME, leader.name)
    with timed(results, peer.name, "leader cut off to first write"):
        _write_until_accepted(peer, others)
    lab("heal", "--name", NAME, leader.name)
    api = peer.api(others[0])
    wait_for(lambda: _all_ready(peer, api), "healed", 0.2)


def _write_until_accepted(peer: SwarmLike, hosts: list[Host]) -> None:
    turn = 0
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        api = peer.api(hosts[turn % len(hosts)], WRITE_TIMEOUT_S)
        turn += 1
        try:
            service = peer.create(api, f"after{time.monotonic_ns()}", 0)
        except (ApiFailure, OSError):
            time.sleep(0.01)
        else:
            api.delete(f"/services/{service}")
            return
    raise TimeoutError("no write was accepted in a minute")


def _all_ready(peer: SwarmLike, api: EngineApi) -> bool:
    try:
        nodes = api.get("/nodes")
    except (ApiFailure, OSError):
        return False
    return len(nodes) == len(peer.topology.hosts) and all(
        node["Status"]["State"] == "ready"
        and node.get("ManagerStatus", {}).get("Reachability") == "reachable"
        for node in nodes
    )


def measure_plain(topology: Topology, results: Results) -> None:
    plain = PlainCalls(topology)
    with timed(results, plain.name, "create 1"):
        plain.start(1)
    plain.remove_all()
    for low, high in SCALES:
        plain.start(low)
        with timed(results, plain.name, f"scale {low} to {high}"):
            plain.start(high - low)
        with timed(results, plain.name, f"remove {high}"):
            plain.remove_all()


def measure_memory(topology: Topology, results: Results) -> None:
    """Resident memory and CPU share of the daemons, idle for some seconds."""
    groups: dict[str, list[psutil.Process]] = defaultdict(list)
    for host in topology.hosts:
        for part in ("master", "agent"):
            pid = int(host.pid_file(part).read_text().split()[0])
            groups[part].append(psutil.Process(pid))
        groups["dockerd"].append(psutil.Process(int(host.engine_pid_file.read_text())))
    for processes in groups.values():
        for process in processes:
            process.cpu_percent()
    time.sleep(IDLE_S)
    for part, processes in groups.items():
        rss = statistics.mean(process.memory_info().rss for process in processes) / 1e6
        cpu = statistics.mean(process.cpu_percent() for process in processes)
        note(results, part, "idle resident memory (MB)", rss)
        note(results, part, "idle CPU (% of a core)", cpu)


@contextmanager
def raised_lab() -> Iterator[Topology]:
    lab("down", "--name", NAME)
    lab("up", "--name", NAME)
    try:
        yield Lab(roots(), SystemClock(), lambda line: None).topology(NAME)
    finally:
        lab("down", "--name", NAME)


def run_round(results: Results, cuts: bool) -> None:
    with raised_lab() as topology:
        essaim = Essaim(topology)
        wait_for(lambda: _all_ready(essaim, essaim.api(topology.hosts[0])), "essaim is up", 0.1)
        measure_memory(topology, results)
        measure_cluster(essaim, results, cuts)
        for host in topology.hosts:
            lab("kill", "--name", NAME, host.name, "agent", "master")
        measure_plain(topology, results)
        swarm = Swarm(topology)
        swarm.form()
        try:
            measure_cluster(swarm, results, cuts)
        finally:
            swarm.leave()


def report(results: Results) -> str:
    """A Markdown table: medians, spreads, ratios."""
    whats = list(dict.fromkeys(what for peer, what in results if peer in ("essaim", "swarm")))
    lines = [
        "| work | Essaim | Docker Swarm | plain calls | Essaim / Swarm |",
        "|---|---|---|---|---|",
    ]
    for what in whats:
        cells = [_cell(results.get((peer, what), [])) for peer in ("essaim", "swarm", "plain")]
        ratio = ""
        if results.get(("essaim", what)) and results.get(("swarm", what)):
            quotient = statistics.median(results["essaim", what]) / statistics.median(
                results["swarm", what]
            )
            ratio = f"{quotient:.2f}"
        lines.append(f"| {what} | {' | '.join(cells)} | {ratio} |")
    for (peer, what), values in results.items():
        if peer in ("master", "agent", "dockerd"):
            lines.append(f"| {what}: {peer} | {_cell(values)} | | | |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    spread = "" if len(values) == 1 else f" ({low:.2f}–{high:.2f})"
    return f"{statistics.median(values):.2f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-cuts", action="store_true", help="Leave the failures out.")
    parser.add_argument("--json", type=Path, help="Write the raw figures to this file too.")
    arguments = parser.parse_args()
    results: Results = defaultdict(list)
    for number in range(1, arguments.rounds + 1):
        print(f"round {number} of {arguments.rounds}", file=sys.stderr)
        run_round(results, not arguments.no_cuts)
    if arguments.json:
        raw = [{"peer": p, "what": w, "values": v} for (p, w), v in results.items()]
        arguments.json.write_text(json.dumps(raw, indent=1))
    print(report(results))


if __name__ == "__main__":
    main()
