"""What the users file of the bus servers says of whom, and the configuration around it."""

import re
from pathlib import Path
from typing import Any

import pytest

from essaim_shared.bus_server_config import BusServer, route_password, server_config
from essaim_shared.bus_users import NANOSECONDS, WRITE_DEADLINE_S, users_file
from essaim_shared.sealing import DataKey
from essaim_shared.subjects import permissions_of
from essaim_shared.trust.bus_keys import new_seed, public_key_of
from essaim_shared.trust.roles import Role
from essaim_shared.trust_objects import NodeIdentity

KEYS = [public_key_of(new_seed()) for _ in range(4)]


def identity(name: str, key: str = KEYS[0], role: Role = Role.AGENT, **more: Any) -> NodeIdentity:
    described = {
        "key_digest": "",
        "serial": "",
        "generation": 1,
        "issued_ns": 0,
        "expires_ns": 0,
        "joined_ns": 0,
    }
    return NodeIdentity(role=role, name=name, bus_key=key, **{**described, **more})


def known(text: str) -> dict[str, str]:
    """key → whose"""
    whose = re.findall(r"# essaim-(\w+ \S+)\n    \{ nkey: (U\w+),", text)
    return {key: name for name, key in whose}


def test_each_process_has_its_key_and_the_subjects_of_its_role() -> None:
    made = users_file("lab", [identity("n1"), identity("m1", KEYS[1], Role.MASTER)])
    assert known(made.text) == {KEYS[1]: "master m1", KEYS[0]: "agent n1"}
    assert made.user_count == 2
    for role, name in ((Role.AGENT, "n1"), (Role.MASTER, "m1")):
        granted = permissions_of("lab", role, name)
        for what, patterns in (("publish", granted.publish), ("subscribe", granted.subscribe)):
            listed = ", ".join(f'"{pattern}"' for pattern in patterns)
            assert f"{what}: {{ allow: [{listed}] }}" in made.text


def test_who_is_suspended_or_shut_out_has_no_key_but_masters_always_have() -> None:
    made = users_file(
        "lab",
        [
            identity("n1", KEYS[0], suspended="it floods"),
            identity("n2", KEYS[1]),
            identity("n3", KEYS[2]),
            identity("m1", KEYS[3], Role.MASTER, suspended="by mistake"),
        ],
        shut_out=frozenset({KEYS[1], KEYS[3]}),
    )
    assert known(made.text) == {KEYS[3]: "master m1", KEYS[2]: "agent n3"}
    assert made.refused == ()


def test_nobody_takes_anothers_permissions_by_naming_his_key() -> None:
    made = users_file(
        "lab",
        [
            identity("thief", KEYS[0], joined_ns=5),
            identity("n1", KEYS[0], joined_ns=3),
            identity("m1", KEYS[1], Role.MASTER, joined_ns=9),
            identity("other", KEYS[1], joined_ns=1),
        ],
    )
    assert known(made.text) == {KEYS[0]: "agent n1", KEYS[1]: "master m1"}
    assert made.refused == (
        "essaim-agent 'other': its key is another's",
        "essaim-agent 'thief': its key is another's",
    )


@pytest.mark.parametrize("key", ["", "U", "U" * 57, KEYS[0] + " }", f"{KEYS[0]}\n", "$env"])
def test_what_is_no_key_does_not_get_into_the_file(key: str) -> None:
    made = users_file("lab", [identity("n1", key), identity("n2", KEYS[1])])
    assert known(made.text) == {KEYS[1]: "agent n2"}
    assert made.refused == ("essaim-agent 'n1': its key is none",)


@pytest.mark.parametrize("name", ["*", ">", "a.b", 'n1"] }', "a\nb", ""])
def test_a_name_that_no_subject_can_hold_gets_no_user(name: str) -> None:
    made = users_file("lab", [identity(name), identity("n2", KEYS[1])])
    assert known(made.text) == {KEYS[1]: "agent n2"}
    assert "cannot be part of a bus subject" in made.refused[0]
    assert f"nkey: {KEYS[0]}" not in made.text


def test_the_file_depends_on_nothing_but_the_users() -> None:
    """All masters write the same, and a server shows which one it has loaded."""
    one, other = identity("n1"), identity("n2", KEYS[1])
    made = users_file("lab", [one, other])
    assert made == users_file("lab", [other, one])
    fewer = users_file("lab", [one])
    assert made.write_deadline_ns != fewer.write_deadline_ns
    for each in (made, fewer):
        assert 0 <= each.write_deadline_ns - WRITE_DEADLINE_S * NANOSECONDS < NANOSECONDS
        assert f'write_deadline: "{each.write_deadline_ns}ns"' in each.text


def test_a_server_asks_clients_for_certificate_and_key_and_other_servers_for_more() -> None:
    text = server_config(
        BusServer(
            name="h1",
            cluster_name="lab",
            listen="10.0.0.1:4222",
            route_listen="10.0.0.1:6222",
            routes=("10.0.0.2:6222", "10.0.0.3:6222"),
            monitor_listen="127.0.0.1:8222",
            pid_file=Path("/run/bus.pid"),
            users_file="users.conf",
            identity_dir=Path("/etc/essaim/identity"),
            route_password="secret",
        )
    )
    assert text.count("verify: true") == 2
    assert text.count('ca_file: "/etc/essaim/identity/authorities.pem"') == 2
    assert 'include "./users.conf"' in text
    assert 'user: "essaim-master", password: "secret"' in text
    assert text.count("nats-route://essaim-master:secret@10.0.0.") == 2


def test_the_password_of_routes_comes_of_the_masters_key_and_is_none_of_its_seals() -> None:
    password = route_password(DataKey(bytes(range(32))), "lab")
    assert password == route_password(DataKey(bytes(range(32))), "lab")
    assert password != route_password(DataKey(bytes(range(32))), "other")
    assert password != route_password(DataKey(bytes(32)), "lab")
    assert re.fullmatch("[0-9a-f]{64}", password)
