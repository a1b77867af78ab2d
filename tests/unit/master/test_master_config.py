"""The master's configuration file: what joins, what links, and what is refused."""

from pathlib import Path

import pytest

from essaim_master.config import load_master_config
from essaim_master.consensus import first_configuration, raft_config
from essaim_master.raft.config import RaftConfig
from essaim_master.raft.messages import Configuration
from essaim_shared.errors import ConfigError

MEMBERS = "".join(
    f'[[members]]\nid = "m{n}"\nraft = "127.0.0.1:740{n}"\nhttp = "127.0.0.1:750{n}"\n'
    for n in (1, 2, 3)
)


def written(directory: Path, member_id: str, more: str = "", members: str = MEMBERS) -> Path:
    path = directory / "master.toml"
    path.write_text(
        f'cluster_id = "test"\nmember_id = "{member_id}"\ndata_dir = "/d"\nsocket = "/s"\n'
        'http_listen = "127.0.0.1:7500"\nraft_listen = "127.0.0.1:7400"\n'
        f'bus_servers = ["nats://127.0.0.1:4222"]\n{more}\n{members}'
    )
    return path


def test_one_of_the_first_begins_with_their_configuration(tmp_path) -> None:
    config = load_master_config(written(tmp_path, "m1"))
    assert first_configuration(config) == Configuration(("m1", "m2", "m3"))
    assert raft_config(config) == RaftConfig("m1")


def test_one_that_joins_begins_with_none(tmp_path) -> None:
    config = load_master_config(written(tmp_path, "m4", "join = true"))
    assert first_configuration(config) == Configuration(())
    assert [member.id for member in config.first_members] == ["m1", "m2", "m3"]


def test_what_networks_are_chosen_from_can_be_configured(tmp_path) -> None:
    overlay = '[overlay]\nvni = 9\npools = ["172.16.0.0/12"]\npool_prefix_length = 24\n'
    pools = load_master_config(written(tmp_path, "m1", overlay)).overlay.network_pools
    assert pools.subnets == ("172.16.0.0/12",)
    assert pools.vip_subnets == ("10.160.0.0/11",)
    assert (pools.prefix_length, pools.first_vni) == (24, 9)


@pytest.mark.parametrize("key", ["http_listen", "raft_listen"])
@pytest.mark.parametrize("everywhere", ["0.0.0.0:7500", "[::]:7500"])
def test_one_that_stands_by_listens_where_it_says_it_is(tmp_path, key, everywhere) -> None:
    path = written(tmp_path, "m4", "standby = true")
    lines = [line for line in path.read_text().splitlines() if not line.startswith(key)]
    path.write_text(f'{key} = "{everywhere}"\n' + "\n".join(lines))
    with pytest.raises(ConfigError, match=f"{key}: .* tells nobody where this master is"):
        load_master_config(path)


@pytest.mark.parametrize("member_id", ["m1", "m4"])
def test_one_that_stands_by_may_be_one_of_the_first_or_not(tmp_path, member_id) -> None:
    assert load_master_config(written(tmp_path, member_id, "standby = true")).standby


def test_over_the_bus_elections_take_three_to_six_seconds(tmp_path) -> None:
    config = raft_config(load_master_config(written(tmp_path, "m1", 'raft_transport = "nats"')))
    config.validate()
    assert (config.election_ticks_min, config.election_ticks_max) == (30, 60)


@pytest.mark.parametrize(
    ("member_id", "more", "sentence"),
    [
        ("m4", "", "says `join = true`"),
        ("m4", "", "says `standby = true`"),
        ("m4", "standby = true\njoin = true", "choose one"),
        ("m 4", "standby = true", "cannot name a master that stands by"),
        ("m1", "join = true", "one of the first members"),
        ("m1", "[overlay]\npools = []", "overlay.pools: name at least one subnet"),
        ("m1", '[overlay]\npools = ["10.0.0.1/8"]', "overlay.pools: 10.0.0.1/8 has host bits"),
        ("m1", '[overlay]\nvip_pools = ["10.1.0.0/24"]', "10.1.0.0/24 holds no /20"),
        ("m1", "[overlay]\npool_prefix_length = 30", "30 is not in 1..29"),
        ("m1", 'raft_transport = "udp"', "raft_transport"),
        ("m1", "joins = true", "did you mean 'join'"),
        ("m1", "[snapshots]\nevery_entries = 0", "snapshots.every_entries"),
        ("m1", '[images]\nresolve = "sometimes"', "images.resolve"),
        ("m1", "[images]\ninsecure_registry = []", "did you mean"),
        ("m1", "[snapshots]\ntrailing_entries = -1", "snapshots.trailing_entries"),
    ],
)
def test_what_cannot_be_is_refused_with_the_key(tmp_path, member_id, more, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_master_config(written(tmp_path, member_id, more))
