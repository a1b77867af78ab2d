"""The control loops as readable stories: each file in testdata/control is a script with what must
come of it.

A line `$ command` is carried out; the lines under it are its expected output: what happened, and
when. `ESSAIM_REWRITE=1 pytest tests/scenarios` writes the output that came instead; read the diff
before you believe it.

`$ service …`, `$ node …`, `$ network …`, `$ secret …` and `$ config …` are the real command line,
which talks to the real API (the last word of `secret create` is what is in the file); leader and
state are real too. The agents are played (`support.control_stage`, which says what the images do).
The other commands are the methods `do_…` below. After every transaction the states are checked, and
after every command that a second look at everything finds nothing to do.
"""

import asyncio
import shlex
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.control_stage import Stage
from support.text_scripts import check_script, played

from essaim_cli.main import cli
from essaim_master.control.planner import SLICE_EFFECTS_MAX
from essaim_master.http.api import Api
from essaim_master.http.app import App
from essaim_master.http.host_facts import HostFacts
from essaim_master.http.server import HttpServer
from essaim_master.images.images import Images
from essaim_master.state.payload_references import name_of, references_of, use_of
from essaim_master.vault import Vault
from essaim_shared.clock import ManualClock, rfc3339
from essaim_shared.ids import NetworkId
from essaim_shared.objects import Task
from essaim_shared.sealing import DataKey
from essaim_shared.spec import DiscreteResource, GenericResource, TaskSpec
from essaim_shared.task_state import TaskState

SCRIPTS = sorted((Path(__file__).parent / "testdata" / "control").glob("*.txt"))

WAITING_COMMANDS = frozenset({"create", "update", "scale", "rollback", "promote"})
"""They would wait for a convergence that only a later command brings: they get `--detach`."""

FACTS = HostFacts(
    hostname="m1",
    architecture="amd64",
    machine="x86_64",
    kernel_version="6.1.0",
    cpu_count=2,
    memory_bytes=4 << 30,
)


IMAGES = Images(vault=Vault(DataKey(bytes(32))))


class NoFigures:
    def nodes(self) -> dict[object, object]:
        return {}

    def containers(self) -> dict[object, object]:
        return {}


@contextmanager
def served(stage: Stage) -> Iterator[str]:
    """The API of the stage's master on a socket; the URL. The state is touched by the server's
    thread only while a command waits for its answer."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def in_loop(work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(10)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "master.sock"
        clock = StageClock(stage)
        app = App(Api(stage.cluster, clock, stage.rng, NoFigures(), FACTS, images=IMAGES))
        server = HttpServer(app, stage.broken.append, path)
        in_loop(server.start())
        try:
            yield f"unix://{path}"
        finally:
            in_loop(server.stop())
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


class StageClock(ManualClock):
    """The stage's time, for the API."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def wall_ns(self) -> int:
        return self._stage.now_ns


class Script:
    def __init__(self, stage: Stage, url: str, directory: Path) -> None:
        self.stage = stage
        self.url = url
        self.directory = directory
        """For files that commands read."""
        stage.checks.append(check_states_only_grow())

    def run(self, command: str) -> list[str]:
        self.stage.log.clear()
        name, *words = shlex.split(command)
        if name in ("secret", "config") and words[0] in ("create", "update"):
            words[-1] = self.file_with(words[-1])
        if name in ("service", "node", "network", "secret", "config"):
            said = self.command_line(name, words)
            self.stage.settle()
        else:
            said = getattr(self, f"do_{name.replace('-', '_')}")(*words)
            self.stage.settle()
        assert not self.stage.broken, self.stage.broken
        assert self.stage.full_pass() == 0, "a second look at the same state changes it"
        return [f"  {line}".rstrip() for line in [*(said or ()), *self.stage.log]]

    def command_line(self, group: str, words: list[str]) -> list[str]:
        verb, *rest = words
        detach = ["--detach"] if group == "service" and verb in WAITING_COMMANDS else []
        result = CliRunner().invoke(
            cli, ["--host", self.url, group, verb, *detach, *rest], catch_exceptions=False
        )
        if result.exit_code:
            said = self.stage.plain(result.stderr)
            return [f"exit {result.exit_code}: {line}" for line in said.splitlines()]
        # What a change prints is an id or a name; only what was asked for is worth showing.
        return result.stdout.splitlines() if verb in ("ls", "ps", "history", "runs") else []

    def file_with(self, content: str) -> str:
        path = self.directory / content
        path.write_text(content)
        return str(path)

    # Nodes.

    def do_nodes(self, *names: str) -> None:
        """`nodes a b zone=east c gpu=2`: labels follow their node; cpus and gpu are resources, mtu
        is that of its interface."""
        name = ""
        facts: dict[str, dict[str, str]] = {}
        for word in names:
            key, is_pair, value = word.partition("=")
            if is_pair:
                facts[name][key] = value
            else:
                name = word
                facts[name] = {}
        for name, pairs in facts.items():
            cpus = float(pairs.pop("cpus", 4))
            gpus = int(pairs.pop("gpu", 0))
            mtu = int(pairs.pop("mtu", 0))
            resource = GenericResource(discrete=DiscreteResource(kind="gpu", resource_value=gpus))
            units = (resource,) if gpus else ()
            self.stage.add_node(name, pairs, cpus, generic_resources=units, mtu=mtu)

    def do_cut(self, *names: str) -> None:
        for name in names:
            self.stage.set_node_state(name, "down")

    def do_heal(self, *names: str) -> None:
        for name in names:
            self.stage.set_node_state(name, "ready")

    # Time, leaders, containers.

    def do_advance(self, duration: str) -> None:
        self.stage.advance(float(duration.removesuffix("s")))

    def do_elect(self) -> None:
        """Another leader takes over: what it knows stands in the state."""
        self.stage.elect()

    def do_crash(self, *slots: str) -> None:
        self._end(slots, 1)

    def do_finish(self, *slots: str) -> None:
        self._end(slots, 0)

    def _end(self, names: tuple[str, ...], exit_code: int) -> None:
        live = {
            task.name: task
            for task in self.stage.state.tasks.values()
            if self.stage.state.observed(task.id) is TaskState.RUNNING
        }
        for name in names:
            self.stage.end(live[name], exit_code)

    # What is shown.

    def do_spread(self, service: str) -> list[str]:
        """How many tasks that are wanted each node has."""
        counts = Counter(
            str(task.node_id or "nowhere")
            for task in self.tasks_of(service)
            if task.desired_state <= TaskState.COMPLETE
            and not self.stage.state.observed(task.id).is_terminal
        )
        return ["  ".join(f"{name} {counts[name]}" for name in sorted(counts)) or "none"]

    def do_tasks(self, service: str) -> list[str]:
        """All tasks that the state holds, oldest first in each slot."""
        return [self.describe(task) for task in self.tasks_of(service)] or ["none"]

    def do_addresses(self, service: str) -> list[str]:
        """The service's own address on each network, then its ports of the cluster."""
        found = self.stage.state.service_named(service)
        assert found is not None, f"no service is called {service}"
        addresses = self.stage.state.service_addresses.get(found.id)
        if addresses is None:
            return ["none"]
        lines = [
            f"{self.network_name(each.network_id)} {each.address}"
            for each in addresses.virtual_addresses
        ]
        for port in addresses.ports:
            claim = self.stage.state.ingress_ports[f"{port.protocol}/{port.published_port}"]
            word = " (chosen)" if claim.is_chosen else ""
            lines.append(f"{port.published_port}->{port.target_port}/{port.protocol}{word}")
        return lines

    def do_places(self, service: str) -> list[str]:
        """Where the tasks that have not ended are on networks."""
        lines = []
        for task in self.tasks_of(service):
            if self.stage.state.observed(task.id).is_terminal:
                continue
            places = [f"{self.network_name(a.network_id)} {a.address}" for a in task.attachments]
            lines.append(f"{self.stage.name_of(task):<12} {', '.join(places) or '-'}")
        return lines or ["none"]

    def do_nodes_on(self, network: str) -> list[str]:
        """The nodes that have an address of their own there."""
        found = self.stage.state.network_named(network)
        gateways = self.stage.state.gateways.values()
        on = [each for each in gateways if found is not None and each.network_id == found.id]
        return [f"{each.node_id} {each.address}" for each in on] or ["none"]

    def do_data(self, service: str) -> list[str]:
        """The numbers of the data that the tasks which have not ended were made with."""
        lines = []
        for task in self.tasks_of(service):
            if not self.stage.state.observed(task.id).is_terminal:
                lines.append(f"{self.stage.name_of(task):<12} {numbers_of(task.spec)}")
        return lines or ["none"]

    def do_asked_data(self, service: str) -> list[str]:
        """Those of the service itself."""
        found = self.stage.state.service_named(service)
        assert found is not None, f"no service is called {service}"
        return [numbers_of(found.spec.task)]

    def do_mtu(self, network: str) -> list[str]:
        found = self.stage.state.network_named(network)
        assert found is not None, f"no network is called {network}"
        return [str(found.mtu)]

    def network_name(self, network_id: NetworkId) -> str:
        found = self.stage.state.networks.get(network_id)
        return network_id if found is None else found.name

    def do_runs(self, service: str) -> list[str]:
        """The runs of a cron job that are kept, with the local time of each."""
        found = self.stage.state.service_named(service)
        assert found is not None, f"no service is called {service}"
        runs = self.stage.state.cron_status[found.id].runs
        lines = []
        for run in runs:
            at = rfc3339(run.scheduled_ns)[11:19]
            lines.append(f"{run.number}  {at}  {run.outcome}  {run.reason}".rstrip())
        return lines

    def tasks_of(self, service: str) -> list[Task]:
        found = self.stage.state.service_named(service)
        assert found is not None, f"no service is called {service}"
        tasks = self.stage.state.tasks_of_service(found.id).values()
        return sorted(
            tasks, key=lambda task: (task.iteration or 0, str(task.slot_key), task.created_ns)
        )

    def describe(self, task: Task) -> str:
        status = self.stage.state.task_status.get(task.id)
        observed = self.stage.state.observed(task.id).docker_name
        words = [
            f"{self.stage.name_of(task):<12}",
            f"{task.node_id or '-':<4}",
            f"{task.spec.container.image:<10}",
            f"wanted {task.desired_state.docker_name}, {observed}",
        ]
        if status is not None and status.err:
            words.append(f"({status.err})")
        return " ".join(words)


def numbers_of(spec: TaskSpec) -> str:
    return ", ".join(
        f"{name_of(one)} {use_of(one)[2]}{' (pinned)' if one.is_pinned is True else ''}"
        for one in references_of(spec.container)
    )


def check_states_only_grow() -> "CheckStates":
    return CheckStates()


class CheckStates:
    """The observed state of a task never goes back, and neither does the desired one."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[TaskState, TaskState]] = {}

    def __call__(self, stage: Stage) -> None:
        for task in stage.state.tasks.values():
            now = (stage.state.observed(task.id), task.desired_state)
            before = self._seen.get(task.id, now)
            assert now[0] >= before[0], f"{stage.name_of(task)} went from {before} to {now}"
            assert now[1] >= before[1], f"{stage.name_of(task)} went from {before} to {now}"
            self._seen[task.id] = now


def replay(text: str, elects_always: bool = False, slice_limit: int = SLICE_EFFECTS_MAX) -> str:
    """The script with the output that came, in place of the one it held. `elects_always`: there
    is a new leader before every single slice of work."""
    stage = Stage(slice_limit=slice_limit)
    stage.elects_always = elects_always
    with served(stage) as url, tempfile.TemporaryDirectory() as directory:
        return played(text, Script(stage, url, Path(directory)).run)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    check_script(path, replay)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_new_leader_before_every_slice_changes_nothing(path: Path) -> None:
    """Nothing is handed over: but for the order of what happens at one moment, the story is the
    same when no leader lives longer than one slice of work."""
    expected = path.read_text(encoding="utf-8")
    assert in_any_order(replay(expected, elects_always=True)) == in_any_order(expected)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_work_cut_into_the_smallest_slices_ends_the_same(path: Path) -> None:
    expected = path.read_text(encoding="utf-8")
    assert in_any_order(replay(expected, slice_limit=2)) == in_any_order(expected)


def in_any_order(story: str) -> list[list[str]]:
    """The output of each command, sorted."""
    return [sorted(part.splitlines()) for part in story.split("\n$ ")]


def test_a_wrong_expectation_is_noticed() -> None:
    """The runner itself can fail: an altered line does not survive the replay."""
    script = "$ nodes a\n$ service create --name web good\n"
    played = replay(script)
    assert "web.1 running" in played
    assert replay(played) == played
    altered = played.replace("web.1 running", "web.1 failed")
    assert replay(altered) != altered
