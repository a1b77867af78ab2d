"""essaim-runc and its installer; the shim runs under dash with a runc that records its call."""

import json
from pathlib import Path

import pytest
from support.shim_engine import CONTAINER, RUNC_EXIT, Engine

from essaim_agent import shim
from essaim_agent.shim.__main__ import main
from essaim_shared.errors import ConfigError

NETWORK_ENTRIES = {
    "with a path (Docker's host mode)": {
        "type": "network",
        "path": "/var/run/docker/netns/default",
    },
    "without a path (a new namespace)": {"type": "network"},
    "absent (the host's own)": None,
}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


def bundle_config(entry: dict[str, str] | None) -> dict[str, object]:
    namespaces: list[dict[str, str]] = [{"type": "mount"}, {"type": "uts"}, {"type": "pid"}]
    if entry is not None:
        namespaces.insert(1, entry)
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["sh", "-c", 'echo {"type":"network"} "namespaces":[ \\ & @ $HOME'],
            "env": ['J={"type":"network","path":"/x"}', "U=é\u2028\n"],
        },
        "linux": {"namespaces": namespaces, "sysctl": {}},
        "annotations": {"a": '"namespaces":[]'},
    }


@pytest.mark.parametrize("indent", [None, 1, "\t"], ids=["compact", "spaced", "tabbed"])
@pytest.mark.parametrize("entry", NETWORK_ENTRIES.values(), ids=NETWORK_ENTRIES.keys())
def test_create_puts_the_prepared_namespace_into_the_bundle_and_changes_nothing_else(
    engine: Engine, entry: dict[str, str] | None, indent: int | str | None
) -> None:
    engine.prepare()
    before = bundle_config(entry)
    separators = (",", ":") if indent is None else None
    engine.write_config(
        json.dumps(before, indent=indent, separators=separators, ensure_ascii=False)
    )

    completed = engine.create()

    assert completed.returncode == RUNC_EXIT, completed.stderr  # runc's own: it was exec'ed
    namespaces = engine.config()["linux"]["namespaces"]  # type: ignore[index]
    path = f"{engine.run_dir}/netns/{CONTAINER}"
    assert {"type": "network", "path": path} in namespaces
    after = engine.config()
    for config in (before, after):
        config["linux"]["namespaces"] = sorted(  # type: ignore[index]
            n["type"]
            for n in config["linux"]["namespaces"]  # type: ignore[index]
            if n["type"] != "network"
        )
    assert after == before
    arguments = engine.runc_arguments()
    assert arguments is not None
    assert arguments[-1] == CONTAINER
    assert "create" in arguments


def test_an_entry_with_its_path_first_is_understood(engine: Engine) -> None:
    engine.prepare()
    engine.write_config('{"linux":{"namespaces":[{"path":"/a/b","type":"network"}]}}')
    assert engine.create().returncode == RUNC_EXIT
    [entry] = engine.config()["linux"]["namespaces"]  # type: ignore[index]
    assert entry["path"].endswith(CONTAINER)


def test_an_empty_list_of_namespaces_gets_its_first(engine: Engine) -> None:
    engine.prepare()
    engine.write_config('{"linux":{"namespaces": [ ]}}')
    assert engine.create().returncode == RUNC_EXIT
    assert len(engine.config()["linux"]["namespaces"]) == 1  # type: ignore[index]


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_without_a_prepared_namespace_nothing_starts_and_the_log_says_why(
    engine: Engine, log_format: str
) -> None:
    text = json.dumps(bundle_config({"type": "network"}))
    engine.write_config(text)

    completed = engine.create(log_format)

    assert completed.returncode == 1
    assert engine.runc_arguments() is None
    reason = f"no network namespace is prepared for container {CONTAINER}"
    assert reason in completed.stderr
    line = engine.log.read_text()
    if log_format == "json":
        logged = json.loads(line)
        assert logged["level"] == "error"
        assert reason in logged["msg"]
    else:
        assert reason in line
    assert (engine.bundle / "config.json").read_text() == text


def test_a_namespace_that_went_away_is_as_good_as_none(engine: Engine) -> None:
    engine.prepare()
    engine.write_config(json.dumps(bundle_config(None)))
    engine.namespace.unlink()
    assert engine.create().returncode == 1
    assert engine.runc_arguments() is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ('{"process":{}}', "has no list of namespaces"),
        ('{"linux":{"namespaces":null}}', "has no list of namespaces"),
        ('{"namespaces":[{"type":"network"},{"type":"network"}]}', "several network namespaces"),
        ('{"namespaces":[],"linux":{"namespaces":[]}}', "several lists of namespaces"),
        ('{"namespaces":[{"type":"network","x":{"y":1}}]}', "in a shape of its own"),
        ("", "has nothing in it"),
    ],
)
def test_a_bundle_that_is_not_understood_is_refused(
    engine: Engine, config: str, reason: str
) -> None:
    engine.prepare()
    engine.write_config(config)
    completed = engine.create()
    assert completed.returncode == 1
    assert reason in completed.stderr
    assert engine.runc_arguments() is None
    assert (engine.bundle / "config.json").read_text() == config


def test_a_bundle_without_a_configuration_is_refused(engine: Engine) -> None:
    engine.prepare()
    assert "cannot read" in engine.create().stderr
    assert engine.runc_arguments() is None


@pytest.mark.parametrize("container_id", ["../../etc", "a b", "--bundle", 'x";y', ""])
def test_a_last_argument_that_is_no_container_id_is_refused(
    engine: Engine, container_id: str
) -> None:
    completed = engine.run("--log", str(engine.log), "create", container_id)
    assert completed.returncode == 1
    assert "no container id" in completed.stderr
    assert engine.runc_arguments() is None


@pytest.mark.parametrize(
    "words",
    [
        ["--root", "create", "state", CONTAINER],
        ["--log=/x", "--systemd-cgroup", "start", CONTAINER],
        ["exec", "--process", "/p", CONTAINER, "create"],
        ["delete", "--force", CONTAINER],
        ["--version"],
        [],
    ],
    ids=" ".join,
)
def test_every_other_verb_is_runcs_with_its_arguments_untouched(
    engine: Engine, words: list[str]
) -> None:
    assert engine.run(*words).returncode == RUNC_EXIT
    assert engine.runc_arguments() == (words or [""])


def test_options_may_carry_their_value_behind_an_equals_sign(engine: Engine) -> None:
    engine.write_config(json.dumps(bundle_config(None)))
    words = [f"--log={engine.log}", "--log-format=json", "create", f"--bundle={engine.bundle}"]
    assert engine.run(*words, CONTAINER).returncode == 1
    assert json.loads(engine.log.read_text())["level"] == "error"
    engine.prepare()
    assert engine.run(*words, CONTAINER).returncode == RUNC_EXIT


def test_installing_again_changes_nothing_and_another_directory_gives_another_shim(
    tmp_path: Path,
) -> None:
    first = shim.install(tmp_path / "bin", tmp_path / "a", Path("/usr/sbin/runc"))
    written = first.stat().st_mtime_ns
    assert shim.install(tmp_path / "bin", tmp_path / "a", Path("/usr/sbin/runc")) == first
    assert first.stat().st_mtime_ns == written
    assert first.stat().st_mode & 0o777 == 0o755
    shim.install(tmp_path / "bin", tmp_path / "b", Path("/usr/sbin/runc"))
    assert f"run_dir='{tmp_path}/b'" in first.read_text()
    assert "@" not in first.read_text().split("log=''")[0]


@pytest.mark.parametrize("run_dir", ["relative", "/with space", "/quo'te", "/a@b", "/a&b"])
def test_a_run_directory_that_would_need_quoting_is_refused(tmp_path: Path, run_dir: str) -> None:
    with pytest.raises(ConfigError, match="absolute path"):
        shim.install(tmp_path, Path(run_dir), Path("/usr/sbin/runc"))
    assert not (tmp_path / shim.SHIM_FILE).exists()


def test_links_are_made_moved_listed_and_removed(tmp_path: Path) -> None:
    assert shim.linked(tmp_path) == {}
    shim.link_namespace(tmp_path, "c1", "/run/netns/one")
    shim.link_namespace(tmp_path, "c1", "/run/netns/one")
    shim.link_namespace(tmp_path, "c2", "/run/netns/two")
    shim.link_namespace(tmp_path, "c1", "/run/netns/three")
    assert shim.linked(tmp_path) == {"c1": "/run/netns/three", "c2": "/run/netns/two"}
    shim.unlink_namespace(tmp_path, "c1")
    shim.unlink_namespace(tmp_path, "c1")
    assert shim.linked(tmp_path) == {"c2": "/run/netns/two"}


@pytest.mark.parametrize("container_id", ["", "../x", "a/b", ".hidden"])
def test_a_container_id_that_is_none_is_a_mistake_of_the_caller(
    tmp_path: Path, container_id: str
) -> None:
    with pytest.raises(ValueError, match="no container id"):
        shim.link_namespace(tmp_path, container_id, "/run/netns/one")


def test_registering_keeps_what_else_stands_in_the_engines_configuration(tmp_path: Path) -> None:
    daemon_json = tmp_path / "docker" / "daemon.json"
    assert shim.register(Path("/opt/essaim-runc"), daemon_json)
    settings = {"live-restore": True, "runtimes": {"crun": {"path": "/usr/bin/crun"}}}
    daemon_json.write_text(json.dumps(settings))
    assert shim.register(Path("/opt/essaim-runc"), daemon_json)
    assert not shim.register(Path("/opt/essaim-runc"), daemon_json)
    settings["runtimes"]["essaim"] = {"path": "/opt/essaim-runc"}  # type: ignore[index]
    assert json.loads(daemon_json.read_text()) == settings


@pytest.mark.parametrize("text", ["{", "[]", '{"runtimes": []}'])
def test_an_engine_configuration_that_is_not_understood_is_left_alone(
    tmp_path: Path, text: str
) -> None:
    daemon_json = tmp_path / "daemon.json"
    daemon_json.write_text(text)
    with pytest.raises(ConfigError, match=r"daemon\.json"):
        shim.register(Path("/opt/essaim-runc"), daemon_json)
    assert daemon_json.read_text() == text


def test_the_command_prints_the_installed_path_for_scripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["install", "--run-dir", str(tmp_path), "--runc", "/usr/sbin/runc"]
    assert main(words) == 0
    installed = Path(capsys.readouterr().out.strip())
    assert installed == tmp_path / "essaim-runc"
    daemon_json = tmp_path / "daemon.json"
    register = ["register", "--shim", str(installed), "--daemon-json", str(daemon_json)]
    assert main(register) == 0
    assert json.loads(daemon_json.read_text())["runtimes"]["essaim"]["path"] == str(installed)


def test_the_command_says_in_one_line_why_it_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install", "--run-dir", "relative", "--runc", "/usr/sbin/runc"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
