"""The leader's host loses its cable: how long until another master accepts a write.

    make failover           # or: .venv/bin/python bench/failover.py --runs 20

One lab, one cut after the other, each healed before the next. Times are from just before the cable
is pulled to the answer of the first write that a client at another host gets through; it tries the
two others in turn without a pause. The write is durable on a majority then. What bounds it from
below is the election time-out: 0.6 to 1.2 s, drawn anew by each master.
"""

import argparse
import asyncio
import statistics
import time

from engine_api import ApiFailure, EngineApi
from essaim_cli.lab import network
from essaim_cli.lab.driver import Lab
from essaim_cli.lab.state import roots
from essaim_cli.lab.topology import Host, Topology
from essaim_shared.clock import SystemClock
from peers import Essaim, lab, wait_for

NAME = "failover"
TRY_TIMEOUT_S = 0.3
"""A master without a leader holds a write back in the hope of one: ask the next meanwhile."""
GIVE_UP_S = 30.0
WANTED_S = 1.5


def leader_of(topology: Topology) -> Host:
    """As soon as there is one, by the answer of any master that is not cut off."""
    found: list[Host] = []

    def look() -> bool:
        try:
            found.append(Essaim(topology).leader())
        except (ApiFailure, OSError, KeyError):
            return False
        return True

    wait_for(look, "a master leads", 0.05)
    return found[-1]


def first_write_s(hosts: list[Host], start_s: float) -> float:
    """Seconds until one of these masters accepts a write."""
    apis = [EngineApi(host.master_socket, TRY_TIMEOUT_S) for host in hosts]
    turn = 0
    while time.monotonic() < start_s + GIVE_UP_S:
        try:
            apis[turn % len(apis)].call("PUT", "/essaim/kv/keys/failover", {"Value": str(turn)})
        except (ApiFailure, OSError):
            turn += 1
        else:
            return time.monotonic() - start_s
    raise TimeoutError(f"no write was accepted in {GIVE_UP_S:g} s")


def follows(host: Host) -> bool:
    """Whether a master has heard of a leader: it answers a read that asks the others."""
    try:
        EngineApi(host.master_socket, TRY_TIMEOUT_S).get("/essaim/kv/range?prefix=failover")
    except (ApiFailure, OSError):
        return False
    return True


def one_cut(topology: Topology) -> float:
    leader = leader_of(topology)
    others = [host for host in topology.masters if host != leader]
    start_s = time.monotonic()
    asyncio.run(network.set_cable(topology, leader, connected=False))
    took_s = first_write_s(others, start_s)
    asyncio.run(network.set_cable(topology, leader, connected=True))
    wait_for(lambda: all(follows(host) for host in topology.masters), "the cluster is whole", 0.1)
    return took_s


def report(took_s: list[float]) -> None:
    ordered = sorted(took_s)
    print(
        f"leader cut off to first write, {len(ordered)} runs: "
        f"least {ordered[0]:.2f} s, median {statistics.median(ordered):.2f} s, "
        f"most {ordered[-1]:.2f} s; {sum(one <= WANTED_S for one in ordered)} of them "
        f"within {WANTED_S} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10)
    runs: int = parser.parse_args().runs
    lab("up", "--name", NAME, "--hosts", "3")
    try:
        topology = Lab(roots(), SystemClock(), print).topology(NAME)
        took_s = []
        for number in range(runs):
            took_s.append(one_cut(topology))
            print(f"  {number + 1:3} {took_s[-1]:8.2f} s", flush=True)
        report(took_s)
    finally:
        lab("down", "--name", NAME)


if __name__ == "__main__":
    main()
