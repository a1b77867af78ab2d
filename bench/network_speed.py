"""Throughput and connections of the overlay beside Docker Swarm's and a VXLAN made by hand.

    .venv/bin/python bench/network_speed.py --rounds 5
    (apt-get install --no-install-recommends iperf3 apache2-utils nginx-light)

One lab of three hosts; in each round every peer is measured once, in turn. The programs that
measure are the machine's own, run in the containers' network namespaces, so images do not matter.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine_api import ApiFailure, EngineApi, filters
from essaim_cli.lab.driver import Lab
from essaim_cli.lab.state import roots
from essaim_cli.lab.topology import Host, Topology
from essaim_shared.clock import SystemClock
from peers import CONTAINER, Essaim, Swarm, SwarmLike, container_count, lab, wait_for

NAME = "netbench"
SERVICE = "speed"
THROUGHPUT_S = 5
CONNECTIONS = 5_000
CONCURRENCY = 8
JOINING = 50
"""Tasks that start together, on an overlay of their own or on the hosts' network."""
WEB_PORT = 8099
HAND_VNI, HAND_UDP_PORT = 999, 8472
NGINX_CONFIG = """
daemon off; master_process off; pid /tmp/essaim-bench-nginx-{name}.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{ access_log off; server {{ listen {port} backlog=4096; return 200 "x"; }} }}
"""

Results = dict[tuple[str, str], list[float]]


def in_namespace(path: str, *command: str) -> list[str]:
    return ["nsenter", f"--net={path}", *command]


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def running(*command: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def throughput_gbit_s(client: str, server: str, address: str) -> float:
    """TCP from one namespace to another, as iperf3 measures it at the receiver."""
    with running(*in_namespace(server, "iperf3", "-s", "-1")):
        time.sleep(0.3)
        text = output_of(
            *in_namespace(client, "iperf3", "-J", "-t", str(THROUGHPUT_S), "-c", address)
        )
    return float(json.loads(text)["end"]["sum_received"]["bits_per_second"]) / 1e9


def connections_per_s(client: str, address: str, servers: list[str]) -> float:
    """New TCP connections with one small request each, as ab counts them."""
    with _web_servers(servers):
        url = f"http://{address}:{WEB_PORT}/"
        text = output_of(
            *in_namespace(client, "ab", "-q", "-n", str(CONNECTIONS), "-c", str(CONCURRENCY), url)
        )
    rate = next(line for line in text.splitlines() if line.startswith("Requests per second"))
    failed = next(line for line in text.splitlines() if line.startswith("Failed requests"))
    assert failed.split()[2] == "0", text
    return float(rate.split()[3])


@contextmanager
def _web_servers(namespaces: list[str]) -> Iterator[None]:
    processes = []
    for number, namespace in enumerate(namespaces):
        config = Path(f"/tmp/essaim-bench-nginx-{number}.conf")
        config.write_text(NGINX_CONFIG.format(name=number, port=WEB_PORT))
        command = in_namespace(namespace, "nginx", "-c", str(config))
        processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
    time.sleep(0.5)
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait()


class Placed:
    """The tasks of the measured service: namespaces and addresses, one for each host."""

    def __init__(self, peer: SwarmLike, network: str) -> None:
        self.namespaces: list[str] = []
        self.addresses: list[str] = []
        for host in peer.topology.hosts:
            engine = EngineApi(host.engine_socket)
            label = f"com.docker.swarm.service.name={SERVICE}"
            [found] = engine.get("/containers/json?" + filters(label=label))
            inspected = engine.get(f"/containers/{found['Id']}/json")
            namespace = f"/proc/{inspected['State']['Pid']}/ns/net"
            self.namespaces.append(namespace)
            self.addresses.append(_overlay_address(peer, inspected, namespace, network))


def _overlay_address(peer: SwarmLike, inspected: dict, namespace: str, network: str) -> str:
    if isinstance(peer, Swarm):
        return str(inspected["NetworkSettings"]["Networks"][network]["IPAddress"])
    text = output_of(*in_namespace(namespace, "ip", "-json", "-4", "address", "show", "eth0"))
    return str(json.loads(text)[0]["addr_info"][0]["local"])


@contextmanager
def service(peer: SwarmLike, mode: str) -> Iterator[Placed]:
    """One task on each host, on an overlay of their own."""
    api = peer.api(peer.topology.hosts[0])
    name = f"net{peer.name}"
    api.post("/networks/create", {"Name": name, "Driver": "overlay", "CheckDuplicate": True})
    spec = {
        "Name": SERVICE,
        "TaskTemplate": {"ContainerSpec": CONTAINER, "Networks": [{"Target": name}]},
        "Mode": {"Global": {}},
        "EndpointSpec": {"Mode": mode},
    }
    service_id = str(api.post("/services/create", spec)["ID"])
    hosts = len(peer.topology.hosts)
    wait_for(lambda: peer.running(api, service_id) == hosts, f"{SERVICE} runs", 0.1)
    time.sleep(1)
    try:
        yield Placed(peer, name)
    finally:
        api.delete(f"/services/{service_id}")
        wait_for(lambda: _is_removed(api, name), f"{name} removed", 0.2)


def _is_removed(api: EngineApi, name: str) -> bool:
    """In use until its last task has left."""
    try:
        api.delete(f"/networks/{name}")
    except ApiFailure as error:
        return error.status == 404
    return True


def measure(peer: SwarmLike, results: Results, mode: str) -> None:
    with service(peer, mode) as placed:
        first, second, *_ = placed.namespaces
        gbit = throughput_gbit_s(first, second, placed.addresses[1])
        note(results, peer.name, "TCP across hosts (Gbit/s)", gbit)
        address = SERVICE if mode == "vip" else placed.addresses[1]
        if mode == "vip":
            api = peer.api(peer.topology.hosts[0])
            found = api.get(f"/services/{SERVICE}")["Endpoint"]["VirtualIPs"]
            address = found[0]["Addr"].partition("/")[0]
        rate = connections_per_s(first, address, placed.namespaces)
        note(results, peer.name, "new connections per second", rate)


def measure_joining(peer: Essaim, results: Results) -> None:
    """What it costs 50 tasks to be on a network: beside the same tasks on the hosts' own."""
    api = peer.api(peer.topology.hosts[0])
    api.post("/networks/create", {"Name": "joined", "Driver": "overlay", "CheckDuplicate": True})
    for network, name in (("joined", "essaim"), ("host", "on the hosts")):
        spec = {
            "Name": SERVICE,
            "TaskTemplate": {"ContainerSpec": CONTAINER, "Networks": [{"Target": network}]},
            "Mode": {"Replicated": {"Replicas": JOINING}},
        }
        start_s = time.monotonic()
        service_id = str(api.post("/services/create", spec)["ID"])
        wait_for(lambda wanted=service_id: peer.running(api, wanted) == JOINING, "50 tasks run")
        note(results, name, f"start of {JOINING} tasks (s)", time.monotonic() - start_s)
        api.delete(f"/services/{service_id}")
        wait_for(lambda: container_count(peer.topology) == 0, "all removed", 0.1)
    wait_for(lambda: _is_removed(api, "joined"), "joined removed", 0.2)


@contextmanager
def hand_made(topology: Topology) -> Iterator[tuple[list[str], list[str]]]:
    """Two namespaces on two hosts, a bridge and a VXLAN device each, made with iproute2."""
    made, addresses = [], []
    hosts = topology.hosts[:2]
    for number, host in enumerate(hosts, 1):
        name = f"hand{number}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        made.append(name)
        other = hosts[2 - number].address
        address = f"10.250.0.{number}"
        addresses.append(address)
        script = f"""
link add hb type bridge
link set hb mtu 1450 up
link add hx type vxlan id {HAND_VNI} local {host.address} remote {other} dstport {HAND_UDP_PORT}
link set hx mtu 1450 master hb up
link add hv type veth peer name eth0 netns {name}
link set hv mtu 1450 master hb up
"""
        _batch(host, script)
        _accept(host, "-I")
        inner = f"address add {address}/24 dev eth0\nlink set eth0 mtu 1450 up\nlink set lo up\n"
        subprocess.run(["ip", "-n", name, "-batch", "-"], input=inner, text=True, check=True)
    time.sleep(1)
    try:
        yield [f"/run/netns/{name}" for name in made], addresses
    finally:
        for name, host in zip(made, hosts, strict=True):
            subprocess.run(["ip", "netns", "del", name], check=True)
            _accept(host, "-D")
            _batch(host, "link del hx\nlink del hb\n")


def _accept(host: Host, action: str) -> None:
    """Where an engine is, what is forwarded between strangers is dropped, bridged frames too."""
    rule = ["iptables", "-w", action, "FORWARD", "-i", "hb", "-j", "ACCEPT"]
    subprocess.run(in_namespace(f"/run/netns/{host.namespace}", *rule), check=True)


def _batch(host: Host, script: str) -> None:
    command = ["ip", "-n", host.namespace, "-batch", "-"]
    subprocess.run(command, input=script, text=True, check=True)


def note(results: Results, peer: str, what: str, value: float) -> None:
    results[peer, what].append(value)
    print(f"  {peer:<9} {what:<32} {value:10.2f}", file=sys.stderr, flush=True)


def run_round(results: Results) -> None:
    lab("down", "--name", NAME)
    lab("up", "--name", NAME)
    try:
        topology = Lab(roots(), SystemClock(), lambda line: None).topology(NAME)
        essaim = Essaim(topology)
        measure(essaim, results, "vip")
        measure_joining(essaim, results)
        with hand_made(topology) as (namespaces, addresses):
            gbit = throughput_gbit_s(namespaces[0], namespaces[1], addresses[1])
            note(results, "hand-made", "TCP across hosts (Gbit/s)", gbit)
        for host in topology.hosts:
            lab("kill", "--name", NAME, host.name, "agent", "master")
        swarm = Swarm(topology)
        swarm.form()
        try:
            measure(swarm, results, "dnsrr")
        finally:
            swarm.leave()
    finally:
        lab("down", "--name", NAME)


OTHERS = ("swarm", "hand-made", "on the hosts")


def report(results: Results) -> str:
    whats = list(dict.fromkeys(what for _, what in results))
    lines = [
        "| | Essaim | Docker Swarm | VXLAN by hand | on the hosts' network | ratios |",
        "|---|---|---|---|---|---|",
    ]
    for what in whats:
        ours = results.get(("essaim", what), [])
        others = {peer: results.get((peer, what), []) for peer in OTHERS}
        cells = [_cell(found) for found in (ours, *others.values())]
        ratios = [_ratio(ours, found) for found in others.values() if found]
        lines.append(f"| {what} | {' | '.join(cells)} | {', '.join(ratios)} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    return f"{statistics.median(values):,.2f} ({min(values):,.2f}–{max(values):,.2f})"


def _ratio(ours: list[float], theirs: list[float]) -> str:
    if not (ours and theirs):
        return ""
    return f"{statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    missing = [name for name in ("iperf3", "ab", "nginx") if shutil.which(name) is None]
    if missing:
        sys.exit(
            f"not installed: {', '.join(missing)} "
            "(apt-get install --no-install-recommends iperf3 apache2-utils nginx-light)"
        )
    results: Results = defaultdict(list)
    for number in range(1, arguments.rounds + 1):
        print(f"round {number} of {arguments.rounds}", file=sys.stderr)
        run_round(results)
    print(report(results))


if __name__ == "__main__":
    main()
