"""What a lab consists of, and what its processes are told."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from essaim_agent.config import AgentConfig
from essaim_cli.lab import config_files
from essaim_cli.lab.bus_files import bus_server
from essaim_cli.lab.errors import LabError
from essaim_cli.lab.state import Roots, read_state, recorded_labs, write_state
from essaim_cli.lab.topology import LOOPBACK_LABS_MAX, ExecutorName, Topology, check_name, plan_lab
from essaim_master.config import MasterConfig
from essaim_shared.config import load
from essaim_shared.sealing import new_data_key_text, write_private


def a_lab(
    name: str = "lab",
    hosts: int = 3,
    masters: int = 3,
    executor: ExecutorName = "docker",
    subnet: int = 0,
    root: Path = Path("/run/essaim-lab"),
    standbys: int = 0,
) -> Topology:
    return plan_lab(
        name,
        host_count=hosts,
        master_count=masters,
        executor=executor,
        subnet_number=subnet,
        run_root=root,
        data_root=root / "data",
        standby_count=standbys,
    )


def test_hosts_have_addresses_in_the_labs_own_subnet() -> None:
    lab = a_lab(subnet=7)
    assert [host.address for host in lab.hosts] == ["10.98.7.1", "10.98.7.2", "10.98.7.3"]
    assert lab.machine_address == "10.98.7.254"


def test_the_first_hosts_are_masters_and_the_others_only_agents() -> None:
    lab = a_lab(hosts=5, masters=3)
    assert [host.name for host in lab.masters] == ["h1", "h2", "h3"]
    assert lab.host("h5").parts == ("engine", "agent"), "a bus server is where a master is"
    assert lab.host("h1").parts == ("bus", "engine", "master", "agent")


def test_masters_that_stand_by_follow_the_first_ones() -> None:
    lab = a_lab(hosts=5, masters=3, standbys=1)
    assert [host.name for host in lab.masters] == ["h1", "h2", "h3"]
    assert [host.name for host in lab.standbys] == ["h4"]
    assert "master" in lab.host("h4").parts
    assert "master" not in lab.host("h5").parts


@pytest.mark.parametrize("standbys", [-1, 3])
def test_each_that_stands_by_needs_a_host_of_its_own(standbys: int) -> None:
    with pytest.raises(LabError, match=f"--standbys {standbys}: 2 of the 5 hosts have no master"):
        a_lab(hosts=5, masters=3, standbys=standbys)


def test_a_loopback_lab_has_no_engines_and_no_port_twice() -> None:
    labs = [
        a_lab(hosts=20, executor="process", subnet=number) for number in range(LOOPBACK_LABS_MAX)
    ]
    ports = [
        port
        for lab in labs
        for host in lab.hosts
        for port in (
            host.http_port,
            host.raft_port,
            host.metrics_port,
            host.bus_port,
            host.bus_route_port,
            host.bus_monitor_port,
            host.overlay_udp_port,
        )
    ]
    assert len(ports) == len(set(ports))
    # Outgoing connections take their ports from 32768 on; a listener there could lose its place.
    assert max(ports) < 32_768
    assert "engine" not in labs[0].host("h1").parts


@pytest.mark.parametrize(
    ("hosts", "masters", "said"),
    [
        (0, 1, "--hosts 0"),
        (-1, 1, "--hosts -1"),
        (21, 3, "--hosts 21"),
        (3, 2, "--masters 2"),
        (3, 0, "--masters 0"),
        (2, 3, "each master needs its own host"),
    ],
)
def test_numbers_that_make_no_cluster_are_refused(hosts: int, masters: int, said: str) -> None:
    with pytest.raises(LabError, match=said):
        a_lab(hosts=hosts, masters=masters)


@pytest.mark.parametrize("name", ["", "Lab", "1st", "a-b", "../x", "a" * 13, "a b", "lab\n"])
def test_names_that_could_be_mistaken_for_others_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="cannot name a lab"):
        check_name(name)


def test_names_of_devices_fit_into_the_kernels_fifteen_characters() -> None:
    assert len(a_lab(name="a" * 12).machine_link) <= 15
    assert a_lab(name="one").machine_link != a_lab(name="two").machine_link


def test_an_unknown_host_is_named_together_with_those_that_exist() -> None:
    with pytest.raises(LabError, match=r'no host "h9": it has h1, h2, h3'):
        a_lab().host("h9")


def test_every_host_has_a_master_configuration_that_the_master_accepts(tmp_path: Path) -> None:
    lab = a_lab(root=tmp_path)
    seen = []
    for host in lab.masters:
        file = tmp_path / f"{host.name}.toml"
        file.write_text(config_files.master_config(lab, host))
        config = load(file, MasterConfig)
        assert config.member_id == host.name
        assert config.bus_servers[0] == host.bus_url, "the host's own bus server comes first"
        assert len(config.bus_servers) == 3
        seen.append(config.members)
    assert seen[0] == seen[1] == seen[2], "the first masters are the same list everywhere"


@pytest.mark.parametrize("executor", ["docker", "process"])
def test_every_host_has_an_agent_configuration_that_the_agent_accepts(
    executor: ExecutorName, tmp_path: Path
) -> None:
    lab = a_lab(executor=executor, root=tmp_path)
    for host in lab.hosts:
        file = tmp_path / f"{host.name}.toml"
        file.write_text(config_files.agent_config(lab, host))
        config = load(file, AgentConfig)
        assert config.node_name == host.name
        assert config.executor == executor


def test_configurations_are_toml_whatever_the_executor() -> None:
    for executor in ("docker", "process"):
        lab = a_lab(executor=executor)  # type: ignore[arg-type]
        for host in lab.hosts:
            assert tomllib.loads(config_files.agent_config(lab, host))["cluster_id"] == "lab"
            assert len(tomllib.loads(config_files.master_config(lab, host))["members"]) == 3


def test_hosts_without_a_bus_server_begin_with_different_ones_of_the_masters() -> None:
    lab = a_lab(hosts=6, masters=3, standbys=1)
    assert [host.name for host in lab.bus_hosts] == ["h1", "h2", "h3", "h4"]
    servers = {host.name: config_files.bus_servers(lab, host) for host in lab.hosts}
    assert servers["h2"][0] == lab.host("h2").bus_url
    assert servers["h5"][0] != servers["h6"][0]
    assert {len(set(known)) for known in servers.values()} == {4}


def test_bus_servers_have_routes_to_all_others_and_none_to_themselves(tmp_path: Path) -> None:
    lab = a_lab(hosts=4, root=tmp_path)
    host = lab.host("h2")
    host.data_dir.mkdir(parents=True)
    write_private(host.seal_key_file, new_data_key_text().encode())
    server = bus_server(lab, host)
    assert server.routes == ("10.98.0.1:6222", "10.98.0.3:6222")
    assert server.monitor_listen.startswith("127.0.0.1:"), "nobody else looks into it"


def test_engines_keep_containers_and_their_key_to_themselves() -> None:
    host = a_lab().host("h1")
    old = json.loads(config_files.engine_config(host, Path("/x/essaim-runc"), 20))
    new = json.loads(config_files.engine_config(host, Path("/x/essaim-runc"), 28))
    assert old["live-restore"]
    assert old["runtimes"] == {"essaim": {"path": "/x/essaim-runc"}}
    assert old["deprecated-key-path"].startswith(str(host.run_dir))
    assert "deprecated-key-path" not in new, "later engines refuse a setting they do not know"


def test_nothing_of_an_engine_is_in_a_default_place() -> None:
    host = a_lab().host("h1")
    for flag in config_files.engine_command(host)[1:]:
        assert flag.startswith("--userland-proxy") or "lab" in flag, flag


def test_a_recorded_lab_is_read_back_as_it_was(tmp_path: Path) -> None:
    where = Roots(tmp_path, tmp_path / "data")
    lab = a_lab(hosts=4, masters=3, subnet=2, root=tmp_path)
    write_state(lab)
    assert read_state("lab", where) == lab
    assert recorded_labs(where) == (lab,)
    assert read_state("other", where) is None


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "null", '{"name": "lab"}', '{"host_count": "x"}', "\x00"]
)
def test_a_damaged_record_is_no_record(damage: str, tmp_path: Path) -> None:
    lab = a_lab(root=tmp_path)
    write_state(lab)
    (lab.run_dir / "lab.json").write_text(damage)
    assert read_state("lab", Roots(tmp_path, tmp_path)) is None


def test_two_plans_of_the_same_arguments_are_equal() -> None:
    assert a_lab() == a_lab()
    assert a_lab() != replace(a_lab(), subnet_number=1)
