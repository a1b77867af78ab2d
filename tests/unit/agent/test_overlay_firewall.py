"""The rules around the overlay, as text: what is loaded, and when nothing needs to be."""

import pytest

from essaim_agent.network import NetworkError
from essaim_agent.overlay.firewall import ACCEPT_RULES, accept_script
from essaim_agent.overlay.host_ports import PublishedTask, holder_of, ports_table
from essaim_agent.overlay.nft_table import whole
from essaim_agent.overlay.sysctls import check_sysctls
from essaim_agent.overlay.task_networks import read_counters
from essaim_shared.ids import TaskId
from essaim_shared.spec import PortConfig

IN, OUT, SENT_ON = ACCEPT_RULES

BARE = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -i docker0 -j ACCEPT
COMMIT
"""
DOCKER = BARE.replace(":OUTPUT ACCEPT [0:0]\n", ":OUTPUT ACCEPT [0:0]\n:DOCKER-USER - [0:0]\n")


def with_rules(saved: str, *rules: str) -> str:
    return saved.replace("COMMIT", "\n".join([*rules, "COMMIT"]))


SCRIPTS = {
    "none yet": (BARE, True, [f"-I FORWARD {rule}" for rule in (SENT_ON, OUT, IN)]),
    "none yet, with Docker": (
        DOCKER,
        True,
        [f"-I DOCKER-USER {rule}" for rule in (SENT_ON, OUT, IN)],
    ),
    "no table at all": ("", True, [f"-I FORWARD {rule}" for rule in (SENT_ON, OUT, IN)]),
    "all there": (with_rules(BARE, *(f"-A FORWARD {rule}" for rule in ACCEPT_RULES)), True, []),
    "all there, as another version prints them": (
        with_rules(
            BARE,
            f"-A FORWARD {IN}".replace("essaim", '"essaim"'),
            f"-A FORWARD {OUT}".replace("RELATED,ESTABLISHED,DNAT", "DNAT,ESTABLISHED,RELATED"),
            f"-A FORWARD {SENT_ON}",
        ),
        True,
        [],
    ),
    "one is missing": (
        with_rules(BARE, f"-A FORWARD {IN}"),
        True,
        [f"-D FORWARD {IN}", *(f"-I FORWARD {rule}" for rule in (SENT_ON, OUT, IN))],
    ),
    "twice": (
        with_rules(BARE, *[f"-A FORWARD {IN}"] * 2, f"-A FORWARD {OUT}"),
        True,
        [
            *[f"-D FORWARD {IN}"] * 2,
            f"-D FORWARD {OUT}",
            *(f"-I FORWARD {rule}" for rule in (SENT_ON, OUT, IN)),
        ],
    ),
    "Docker came later": (
        with_rules(DOCKER, f"-A FORWARD {IN}", f"-A FORWARD {OUT}"),
        True,
        [
            f"-D FORWARD {IN}",
            f"-D FORWARD {OUT}",
            *(f"-I DOCKER-USER {rule}" for rule in (SENT_ON, OUT, IN)),
        ],
    ),
    "no longer wanted": (
        with_rules(DOCKER, f"-A DOCKER-USER {IN}", f"-A DOCKER-USER {OUT}"),
        False,
        [f"-D DOCKER-USER {IN}", f"-D DOCKER-USER {OUT}"],
    ),
    "not wanted and not there": (DOCKER, False, []),
    "a stranger's comment": (
        with_rules(BARE, "-A FORWARD -m comment --comment essaim-like -j DROP"),
        False,
        [],
    ),
}


@pytest.mark.parametrize(("saved", "is_wanted", "changes"), SCRIPTS.values(), ids=SCRIPTS.keys())
def test_accept_rules(saved: str, is_wanted: bool, changes: list[str]) -> None:
    script = accept_script(saved, is_wanted)
    assert script.splitlines() == (["*filter", *changes, "COMMIT"] if changes else [])


@pytest.mark.parametrize("name", ["net.ipv4.tcp_syncookies", "net.ipv4.conf.eth0.forwarding"])
def test_sysctls_of_the_network_are_a_tasks_own(name: str) -> None:
    check_sysctls([name])


@pytest.mark.parametrize("name", ["kernel.panic", "net", "net.", "netx.y", "net.a/../../b", ""])
def test_sysctls_of_the_host_are_refused(name: str) -> None:
    with pytest.raises(NetworkError, match=r"only net\.\*"):
        check_sysctls([name])


def test_counters_are_turned_round_to_the_containers_view() -> None:
    text = (
        "Inter-|   Receive                          |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n"
        "    lo:     100       2    0    0    0     0          0         0      100       2\n"
        "es-v01:1234567890      11    0    0    0     0          0         0      700       7 0 0\n"
    )
    counters = read_counters(text)
    assert counters.keys() == {"es-v01"}
    assert counters["es-v01"].transmit_bytes == 1_234_567_890
    assert counters["es-v01"].transmit_packets == 11
    assert counters["es-v01"].receive_bytes == 700
    assert counters["es-v01"].receive_packets == 7


def published(address: str, *ports: tuple[str, int, int]) -> PublishedTask:
    return PublishedTask(
        address,
        tuple(
            PortConfig(protocol=protocol, published_port=number, target_port=target)
            for protocol, number, target in ports
        ),
    )


def test_published_ports_are_one_lookup_for_each_protocol() -> None:
    tasks = [
        published("10.1.0.5", ("tcp", 8080, 80), ("udp", 53, 5353)),
        published("10.1.0.6", ("tcp", 443, 8443), ("sctp", 9, 9)),
    ]
    script = whole(ports_table(tasks, ["10.1.0.0/20"]))
    assert [line.strip() for line in script.splitlines() if "dport" in line] == [
        "dnat ip addr . port to tcp dport map { 443 : 10.1.0.6 . 8443, 8080 : 10.1.0.5 . 80 }",
        "dnat ip addr . port to udp dport map { 53 : 10.1.0.5 . 5353 }",
        "dnat ip addr . port to sctp dport map { 9 : 10.1.0.6 . 9 }",
    ]
    assert script.startswith("table ip essaim-ports\ndelete table ip essaim-ports\n")


def test_the_guard_stands_with_the_ports_and_goes_with_them() -> None:
    script = whole(ports_table([published("10.1.0.5", ("tcp", 8080, 80))], ["10.1.0.0/20"]))
    assert 'iifname != "lo" ip daddr 127.0.0.0/8 drop' in script
    assert 'iifname != "lo" ip saddr 127.0.0.0/8 drop' in script
    assert whole(ports_table([], ["10.1.0.0/20"])) == (
        "table ip essaim-ports\ndelete table ip essaim-ports\n"
    )


def test_one_port_has_one_holder() -> None:
    held = {TaskId("web"): published("10.1.0.5", ("tcp", 8080, 80))}
    assert holder_of(held, published("10.1.0.6", ("tcp", 8080, 1))) == "web"
    assert holder_of(held, published("10.1.0.6", ("udp", 8080, 80))) is None
