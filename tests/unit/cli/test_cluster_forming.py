"""What `cluster init` writes, and when it and `cluster join` write nothing."""

import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from essaim_agent.config import load_agent_config
from essaim_cli.cluster_forming import init, join
from essaim_cli.host_files import Machine, Ports, master_toml
from essaim_cli.machine_setup import give_tree
from essaim_master.config import load_master_config
from essaim_shared.bus_users import users_file
from essaim_shared.sealing import load_data_key
from essaim_shared.trust.certificates import facts_of
from essaim_shared.trust.founding import read_founding
from essaim_shared.trust.identity import read_identity
from essaim_shared.trust.joining import ClusterNetworks, MasterAddress
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tokens import JoinToken

FOR_ALL = {".": 0o755, "master.toml": 0o644, "agent.toml": 0o644}
TOKEN = JoinToken("ab" * 32, "s" * 25).text


def options(root: Path) -> list[str]:
    return [
        *("--advertise", "10.0.0.1", "--hostname", "m1", "--directory", str(root / "etc")),
        *("--data", str(root / "lib"), "--run", str(root / "run")),
    ]


def founded(root: Path) -> Result:
    return CliRunner().invoke(init, options(root))


def test_a_founded_machine_has_all_that_its_daemons_ask_for(tmp_path: Path) -> None:
    result = founded(tmp_path)
    assert result.exit_code == 0, result.output
    master = load_master_config(tmp_path / "etc" / "master.toml")
    agent = load_agent_config(tmp_path / "etc" / "agent.toml")
    identities = {
        "master": read_identity(Path(master.identity_dir)),
        "agent": read_identity(Path(agent.identity_dir)),
        "admin": read_identity(tmp_path / "etc" / "admin"),
    }
    roles = {name: facts_of(one.own_pem).subject.role for name, one in identities.items()}
    assert roles == {"master": Role.MASTER, "agent": Role.AGENT, "admin": Role.USER}
    assert identities["agent"].about.masters == (master.http_listen,) == ("10.0.0.1:7400",)
    load_data_key(Path(master.seal_key_file))
    founding = read_founding(Path(master.identity_dir))
    assert founding is not None
    bus = tmp_path / "lib" / "master" / "bus"
    assert (bus / "users.conf").read_text() == users_file("essaim", founding.identities).text
    assert 'include "./users.conf"' in (bus / "bus.conf").read_text()


def test_it_prints_what_to_start_and_both_join_lines(tmp_path: Path) -> None:
    result = founded(tmp_path)
    founding = read_founding(tmp_path / "lib" / "master" / "identity")
    assert founding is not None
    worker = f"essaim cluster join --token {founding.worker_token.text} 10.0.0.1:7400"
    master = f"essaim cluster join --master --token {founding.master_token.text} 10.0.0.1:7400"
    lines = [line.strip() for line in result.output.splitlines()]
    assert worker in lines
    assert master in lines
    assert f"essaim-agent --config {tmp_path}/etc/agent.toml" in lines


def test_nobody_else_reads_a_key(tmp_path: Path) -> None:
    founded(tmp_path)
    private = ("own.pem", "bus.seed", "seal.key", "founding.msgpack", "bus.conf")
    found = [path for path in tmp_path.rglob("*") if path.name in private]
    assert {path.name for path in found} == set(private)
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}


@pytest.mark.parametrize("command", ["init", "join"])
def test_an_identity_is_never_overwritten(tmp_path: Path, command: str) -> None:
    founded(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments = options(tmp_path)
    if command == "join":
        arguments = ["--token", TOKEN, *arguments, "10.0.0.2:7400"]
    result = CliRunner().invoke({"init": init, "join": join}[command], arguments)
    assert result.exit_code == 1
    assert "holds an identity: this machine is in a cluster already" in result.output
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--advertise", "nowhere"], "--advertise nowhere"),
        (["--name", "a.b"], "--name 'a.b': use letters, digits and dashes"),
        (["--hostname", "m1.example"], "'m1.example' cannot be part of a bus subject"),
    ],
)
def test_what_makes_no_cluster_is_refused_before_anything_is_written(
    tmp_path: Path, arguments: list[str], line: str
) -> None:
    result = CliRunner().invoke(init, [*options(tmp_path), *arguments])
    assert result.exit_code == 2
    assert line in result.output
    assert not any(tmp_path.iterdir())


def test_what_is_no_token_is_not_repeated(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        join, ["--token", "SECRET-WORD", *options(tmp_path), "10.0.0.2:7400"]
    )
    assert result.exit_code == 2
    assert "this is no join token" in result.output
    assert "SECRET-WORD" not in result.output


def test_a_token_need_not_stand_where_others_see_it(tmp_path: Path) -> None:
    """The arguments of a process are anybody's to read on its machine."""
    asked = ["--token", "-", *options(tmp_path), "127.0.0.1:1"]
    result = CliRunner().invoke(join, asked, input=f"{TOKEN}\n")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.output, "the token was one, and nobody answered"
    assert CliRunner().invoke(join, asked, input="SECRET-WORD\n").exit_code == 2


def test_the_masters_user_gets_to_its_files_whatever_roots_umask_is(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        founded(tmp_path)
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / "etc" / name).stat().st_mode) for name in FOR_ALL}
    assert modes == FOR_ALL


def test_what_a_link_leads_to_is_not_given_away(tmp_path: Path) -> None:
    elsewhere, data = tmp_path / "etc", tmp_path / "lib"
    for directory in (elsewhere, data / "master"):
        directory.mkdir(parents=True)
    (elsewhere / "leads-nowhere").symlink_to("nowhere")
    (data / "file").symlink_to("nowhere")
    (data / "master" / "directory").symlink_to(elsewhere)
    before = elsewhere.stat().st_ctime_ns
    give_tree(data, os.geteuid(), os.getegid())  # who followed a link would have found nothing
    assert elsewhere.stat().st_ctime_ns == before


def test_a_joining_masters_configuration_is_one(tmp_path: Path) -> None:
    machine = Machine("10.0.0.2", "m2", tmp_path, tmp_path / "lib", tmp_path / "run", Ports())
    members = [MasterAddress("m1", "10.0.0.1:7401", "10.0.0.1:7400")]
    networks = ClusterNetworks(
        udp_port=7473, pools=("10.9.0.0/16",), vip_pools=("10.8.0.0/16",), pool_prefix_length=24
    )
    (tmp_path / "master.toml").write_text(
        master_toml(machine, "prod", "m2", members, ["nats://10.0.0.2:4222"], networks)
    )
    loaded = load_master_config(tmp_path / "master.toml")
    assert (loaded.member_id, loaded.standby, loaded.members[0].id) == ("m2", True, "m1")
    assert (loaded.overlay.udp_port, loaded.overlay.pools) == (7473, ("10.9.0.0/16",))
