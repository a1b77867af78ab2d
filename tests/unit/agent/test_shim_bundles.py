"""Bundles that engines wrote, orders of words that runc is called with, and every way to the host's
network that a mistake could open."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.shim_engine import CONTAINER, RUNC_EXIT, Engine

BUNDLES = Path(__file__).parent / "testdata/shim"
SHELLS = [("dash",), ("bash", "--posix"), ("busybox", "ash")]


@pytest.fixture(params=SHELLS, ids=" ".join)
def engine(tmp_path: Path, request: pytest.FixtureRequest) -> Engine:
    return Engine(tmp_path, request.param)


def without_network(config: dict[str, Any]) -> dict[str, Any]:
    namespaces = [n for n in config["linux"]["namespaces"] if n["type"] != "network"]
    return {**config, "linux": {**config["linux"], "namespaces": namespaces}}


def network_entries(config: dict[str, Any]) -> list[dict[str, str]]:
    return [n for n in config["linux"]["namespaces"] if n["type"] == "network"]


# What engines write.


@pytest.mark.parametrize("indent", [None, 2], ids=["as it came", "indented"])
@pytest.mark.parametrize("bundle", sorted(path.name for path in BUNDLES.glob("*.json")))
def test_a_bundle_of_each_engine_gets_the_prepared_namespace(
    engine: Engine, bundle: str, indent: int | None
) -> None:
    engine.prepare()
    text = (BUNDLES / bundle).read_text()
    before = json.loads(text)
    engine.write_config(text if indent is None else json.dumps(before, indent=indent))
    assert engine.create().returncode == RUNC_EXIT
    after = engine.config()
    assert network_entries(after) == [
        {"type": "network", "path": f"{engine.run_dir}/netns/{CONTAINER}"}
    ]
    assert without_network(after) == without_network(before)


def test_a_container_that_starts_again_gets_it_again(engine: Engine) -> None:
    """Engines write the bundle anew; one that does not finds our entry in it."""
    engine.prepare()
    engine.write_config((BUNDLES / "recorded-20.10-host.json").read_text())
    assert engine.create().returncode == RUNC_EXIT
    once = engine.config()
    assert engine.create().returncode == RUNC_EXIT
    assert engine.config() == once


def test_several_containers_may_have_one_namespace(engine: Engine) -> None:
    for container in ("aa" * 32, "bb" * 32):
        engine.prepare(container)
        engine.write_config((BUNDLES / "recorded-20.10-host.json").read_text())
        completed = engine.run("create", "--bundle", str(engine.bundle), container)
        assert completed.returncode == RUNC_EXIT
        (entry,) = network_entries(engine.config())
        assert Path(entry["path"]).readlink() == engine.namespace


# What a bundle of somebody else could hold.


@pytest.mark.parametrize(
    "trick",
    [
        {"annotations": {"type": "network"}},
        {"annotations": {"type": "network", "path": "/x"}},
        {"annotations": {"namespaces": "["}},
        {"annotations": {'"namespaces":[': '{"type":"network"}'}},
        {"process": {"env": ['A="namespaces":[{"type":"network"}]', 'B="namespaces":[]']}},
        {"process": {"args": ['{"type":"network","path":"/run/netns/mine"}']}},
        {"hostname": '\\"namespaces\\":['},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("entries", [[], [{"type": "network"}]], ids=["no entry", "an entry"])
def test_words_of_a_container_are_never_taken_for_its_namespaces(
    engine: Engine, trick: dict[str, Any], entries: list[dict[str, str]]
) -> None:
    engine.prepare()
    before = {**trick, "linux": {"namespaces": [{"type": "mount"}, *entries]}}
    for order in (before, dict(reversed(before.items()))):
        engine.write_config(json.dumps(order, separators=(",", ":")))
        assert engine.create().returncode == RUNC_EXIT
        after = engine.config()
        (entry,) = network_entries(after)
        assert entry["path"] == f"{engine.run_dir}/netns/{CONTAINER}"
        assert without_network(after) == without_network(before)


@pytest.mark.parametrize(
    "entry",
    [
        '{"path":"/a","type":"network"}',
        '{ "type" : "network" , "later" : 1 }',
        '{"type":"network","path":"/with]bracket"}',
        '{"type":"network","path":""}',
    ],
)
def test_an_entry_in_another_shape_is_replaced_whole(engine: Engine, entry: str) -> None:
    engine.prepare()
    engine.write_config(f'{{"linux":{{"namespaces":[{{"type":"mount"}},{entry}]}}}}')
    assert engine.create().returncode == RUNC_EXIT
    assert network_entries(engine.config()) == [
        {"type": "network", "path": f"{engine.run_dir}/netns/{CONTAINER}"}
    ]


# The host's network.


def host_network() -> str:
    return f"/proc/{os.getpid()}/ns/net"


def linked_to(engine: Engine, target: str) -> None:
    engine.write_config((BUNDLES / "recorded-20.10-host.json").read_text())
    link = engine.run_dir / "netns" / CONTAINER
    link.parent.mkdir(parents=True)
    link.symlink_to(target)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/proc/self/ns/net", "is the network of the host itself"),
        (host_network(), "is the network of the host itself"),
        ("/nowhere/at/all", "no network namespace is prepared"),
        ("/etc/passwd", "is no network namespace"),
        ("/tmp", "is no network namespace"),
        ("/dev/null", "is no network namespace"),
    ],
)
@pytest.mark.parametrize("verb", ["create", "run", "restore"])
def test_no_link_leads_there(engine: Engine, target: str, reason: str, verb: str) -> None:
    linked_to(engine, target)
    before = (engine.bundle / "config.json").read_text()
    words = ["--log", str(engine.log), "--log-format=json", verb]
    completed = engine.run(*words, "--bundle", str(engine.bundle), CONTAINER)
    assert completed.returncode == 1
    assert engine.runc_arguments() is None
    assert reason in json.loads(engine.log.read_text())["msg"]
    assert (engine.bundle / "config.json").read_text() == before


@pytest.mark.parametrize("verb", ["create", "run", "restore"])
def test_without_a_link_nothing_that_makes_a_container_is_runcs(engine: Engine, verb: str) -> None:
    engine.write_config((BUNDLES / "handmade-no-entry.json").read_text())
    completed = engine.run(verb, "--bundle", str(engine.bundle), CONTAINER)
    assert completed.returncode == 1
    assert "no network namespace is prepared" in completed.stderr
    assert engine.runc_arguments() is None


def test_a_link_of_another_container_does_not_count(engine: Engine) -> None:
    engine.prepare("ee" * 32)
    engine.write_config((BUNDLES / "recorded-20.10-host.json").read_text())
    assert engine.create().returncode == 1
    assert engine.runc_arguments() is None


# How runc is called.


def calls(engine: Engine) -> list[list[str]]:
    """Options of runc in every order, in front of the verb; its own behind it in every order."""
    outer = [
        ["--root", "/run/x/runtime-runc/moby"],
        ["--log", str(engine.log)],
        ["--log-format", "json"],
        ["--systemd-cgroup"],
    ]
    inner = [
        ["--bundle", str(engine.bundle)],
        ["--pid-file", "/run/x/init.pid"],
        ["--console-socket", "/tmp/pty1/pty.sock"],
        ["--no-pivot"],
    ]
    orders = zip(itertools.permutations(outer), itertools.permutations(inner), strict=True)
    return [
        [*itertools.chain(*before), "create", *itertools.chain(*behind), CONTAINER]
        for before, behind in orders
    ]


def test_words_may_come_in_any_order(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.prepare()
    for words in calls(engine):
        engine.write_config((BUNDLES / "recorded-20.10-host.json").read_text())
        assert engine.run(*words).returncode == RUNC_EXIT, words
        assert engine.runc_arguments() == words
        (entry,) = network_entries(engine.config())
        assert entry["path"].endswith(CONTAINER), words


@pytest.mark.parametrize(
    "words",
    [
        ["--debug", "--root=/r", "--rootless", "auto"],
        ["--rootless=auto", "--criu", "/usr/sbin/criu", "--debug"],
        ["--option-of-a-later-runc", "value"],
    ],
    ids=" ".join,
)
def test_options_that_engines_do_not_give_are_understood_or_refused(
    engine: Engine, words: list[str]
) -> None:
    """A value that was taken for a verb would be runc's, with the bundle as it came."""
    engine.write_config((BUNDLES / "recorded-20.10-host.json").read_text())
    completed = engine.run(*words, "create", "--bundle", str(engine.bundle), CONTAINER)
    assert completed.returncode == 1
    assert engine.runc_arguments() is None


def test_a_verb_of_a_later_runc_is_runcs(engine: Engine) -> None:
    assert engine.run("--log", "/x", "later", CONTAINER).returncode == RUNC_EXIT
    assert engine.runc_arguments() == ["--log", "/x", "later", CONTAINER]


# What is told.


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_the_log_is_one_line_that_can_be_read_whatever_a_path_holds(
    tmp_path: Path, log_format: str
) -> None:
    engine = Engine(tmp_path)
    engine.prepare()
    engine.bundle = tmp_path / 'a"b\\c\td'
    assert engine.create(log_format).returncode == 1  # there is no config.json
    (line,) = engine.log.read_text().splitlines()
    if log_format == "json":
        assert json.loads(line)["msg"].endswith('a"b\\c d/config.json')
    else:
        assert line.startswith('level=error msg="essaim-runc: cannot read ')
        assert line.endswith('a\\"b\\\\c d/config.json"')


def test_what_stood_in_the_log_stays_there(engine: Engine) -> None:
    engine.log.write_text('{"level":"warning","msg":"earlier"}\n')
    engine.write_config("{}")
    assert engine.create().returncode == 1
    levels = [json.loads(line)["level"] for line in engine.log.read_text().splitlines()]
    assert levels == ["warning", "error"]


def test_a_log_that_cannot_be_written_changes_nothing_else(engine: Engine) -> None:
    engine.write_config("{}")
    completed = engine.run("--log", "/nowhere/log", "create", CONTAINER)
    assert completed.returncode == 1
    assert "no network namespace is prepared" in completed.stderr
