"""The three ways to the same containers that are compared: Essaim, Docker Swarm, plain calls.

Essaim and Swarm are driven by the very same requests of Docker's API.
"""

import abc
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engine_api import ApiFailure, EngineApi, filters
from essaim_cli.lab.topology import Host, Topology

POLL_S = 0.01
WAIT_MAX_S = 180.0
PLAIN_CALLS_AT_ONCE = 12
IMAGE = "essaim/web:1"
COMMAND = ["sleep", "86400"]
CONTAINER = {"Image": IMAGE, "Args": COMMAND, "StopSignal": "SIGKILL"}
"""What is removed is killed: a grace period would be measured instead of the peers."""
LABEL = "bench.plain"


class TimedOut(Exception):
    pass


def wait_for(condition: Callable[[], bool], what: str, poll_s: float = POLL_S) -> None:
    deadline_s = time.monotonic() + WAIT_MAX_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimedOut(what)
        time.sleep(poll_s)


def engines(topology: Topology) -> list[EngineApi]:
    return [EngineApi(host.engine_socket) for host in topology.hosts]


def container_count(topology: Topology, hosts: Sequence[Host] | None = None) -> int:
    """Running containers on the hosts' engines, whoever started them."""
    return sum(
        len(EngineApi(host.engine_socket).get("/containers/json"))
        for host in (topology.hosts if hosts is None else hosts)
    )


class SwarmLike(abc.ABC):
    """A cluster behind Docker's service API."""

    def __init__(self, name: str, topology: Topology) -> None:
        self.name = name
        self.topology = topology

    @abc.abstractmethod
    def api(self, host: Host, timeout_s: float = 60.0) -> EngineApi:
        """The cluster's API as it is answered on this host."""

    @abc.abstractmethod
    def leader(self) -> Host: ...

    def create(self, api: EngineApi, name: str, replicas: int) -> str:
        spec = {
            "Name": name,
            "TaskTemplate": {"ContainerSpec": CONTAINER},
            "Mode": {"Replicated": {"Replicas": replicas}},
            "EndpointSpec": {"Mode": "dnsrr"},
        }
        return str(api.post("/services/create", spec)["ID"])

    def scale(self, api: EngineApi, service_id: str, replicas: int) -> None:
        def change(spec: Any) -> None:
            spec["Mode"]["Replicated"]["Replicas"] = replicas

        self._change(api, service_id, change)

    def update(self, api: EngineApi, service_id: str, parallelism: int) -> None:
        """Replace all tasks, `parallelism` at a time."""

        def change(spec: Any) -> None:
            spec["TaskTemplate"]["ForceUpdate"] = 1
            spec["UpdateConfig"] = {"Parallelism": parallelism, "Order": "stop-first"}

        self._change(api, service_id, change)

    def _change(self, api: EngineApi, service_id: str, change: Callable[[Any], None]) -> None:
        while True:
            service = api.get(f"/services/{service_id}")
            spec = service["Spec"]
            change(spec)
            version = service["Version"]["Index"]
            try:
                api.post(f"/services/{service_id}/update?version={version}", spec)
            except ApiFailure as error:
                if "out of sequence" not in str(error):
                    raise
            else:
                return

    def running(self, api: EngineApi, service_id: str, not_on: str = "") -> int:
        """Tasks that are wanted and run, on nodes other than `not_on`."""
        tasks = api.get("/tasks?" + filters(service=service_id, **{"desired-state": "running"}))
        return sum(
            1
            for task in tasks
            if task["Status"]["State"] == "running" and task.get("NodeID") != not_on
        )

    def updated(self, api: EngineApi, service_id: str) -> int:
        """Running tasks that an `update` made."""
        tasks = api.get("/tasks?" + filters(service=service_id, **{"desired-state": "running"}))
        return sum(
            1
            for task in tasks
            if task["Status"]["State"] == "running" and task["Spec"].get("ForceUpdate") == 1
        )

    def node_id(self, api: EngineApi, host: Host) -> str:
        for node in api.get("/nodes"):
            if node["Status"]["Addr"] == host.address:
                return str(node["ID"])
        raise LookupError(host.name)


class Essaim(SwarmLike):
    def __init__(self, topology: Topology) -> None:
        super().__init__("essaim", topology)

    def api(self, host: Host, timeout_s: float = 60.0) -> EngineApi:
        return EngineApi(host.master_socket, timeout_s)

    def leader(self) -> Host:
        leader = self.api(self.topology.hosts[0]).get("/essaim/leader")["MemberID"]
        return self.topology.host(leader)


class Swarm(SwarmLike):
    """Docker's own swarm mode on the lab's engines, three managers."""

    def __init__(self, topology: Topology) -> None:
        super().__init__("swarm", topology)

    def api(self, host: Host, timeout_s: float = 60.0) -> EngineApi:
        return EngineApi(host.engine_socket, timeout_s)

    def leader(self) -> Host:
        for node in self.api(self.topology.hosts[0]).get("/nodes"):
            if node.get("ManagerStatus", {}).get("Leader"):
                address = node["Status"]["Addr"]
                return next(host for host in self.topology.hosts if host.address == address)
        raise LookupError("no leader")

    def form(self) -> None:
        self._allow_swarm()
        first, *others = self.topology.hosts
        self.api(first).post("/swarm/init", self._listen(first))
        token = self.api(first).get("/swarm")["JoinTokens"]["Manager"]
        for host in others:
            body = self._listen(host) | {
                "RemoteAddrs": [f"{first.address}:2377"],
                "JoinToken": token,
            }
            self.api(host).post("/swarm/join", body)
        wait_for(lambda: self._ready() == len(self.topology.hosts), "swarm formed", 0.2)

    def leave(self) -> None:
        for host in self.topology.hosts:
            self.api(host).post("/swarm/leave?force=1")

    def _ready(self) -> int:
        nodes = self.api(self.topology.hosts[0]).get("/nodes")
        return sum(1 for node in nodes if node["Status"]["State"] == "ready")

    def _listen(self, host: Host) -> dict[str, Any]:
        return {"ListenAddr": f"{host.address}:2377", "AdvertiseAddr": host.address}

    def _allow_swarm(self) -> None:
        """Swarm refuses engines with live-restore: reload them without it."""
        for host in self.topology.hosts:
            path = host.config_file("engine")
            config = json.loads(path.read_text())
            config["live-restore"] = False
            path.write_text(json.dumps(config))
            os.kill(int(host.engine_pid_file.read_text()), signal.SIGHUP)
        api = self.api(self.topology.hosts[-1])
        wait_for(lambda: not api.get("/info")["LiveRestoreEnabled"], "live-restore off")


class PlainCalls:
    """Create and start through each engine's API, in parallel, on the default bridge."""

    name = "plain"

    def __init__(self, topology: Topology) -> None:
        self._topology = topology

    def start(self, count: int) -> None:
        hosts = self._topology.hosts
        with ThreadPoolExecutor(PLAIN_CALLS_AT_ONCE) as pool:
            list(pool.map(lambda number: self._start_one(hosts[number % len(hosts)]), range(count)))

    def remove_all(self) -> None:
        found = [
            (host, container["Id"])
            for host in self._topology.hosts
            for container in EngineApi(host.engine_socket).get(
                "/containers/json?all=1&" + filters(label=LABEL)
            )
        ]
        with ThreadPoolExecutor(PLAIN_CALLS_AT_ONCE) as pool:
            list(pool.map(lambda item: self._remove_one(*item), found))

    @staticmethod
    def _start_one(host: Host) -> None:
        api = EngineApi(host.engine_socket)
        body = {"Image": IMAGE, "Cmd": COMMAND, "Labels": {LABEL: "1"}}
        api.post(f"/containers/{api.post('/containers/create', body)['Id']}/start")

    @staticmethod
    def _remove_one(host: Host, container_id: str) -> None:
        EngineApi(host.engine_socket).delete(f"/containers/{container_id}?force=1")


def lab(*arguments: str) -> None:
    """Run one of the lab's own commands. Raises CalledProcessError."""
    subprocess.run(["essaim", "lab", *arguments], check=True, stdout=subprocess.DEVNULL)
