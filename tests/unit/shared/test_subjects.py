"""Who may say and hear what on the bus: every subject, each of its users, and nobody else."""

import itertools

import pytest

from essaim_shared.bus_subjects import check_pattern, matches
from essaim_shared.errors import InvalidRequest
from essaim_shared.ids import MemberId, NodeId
from essaim_shared.subjects import USES, Permissions, Subjects, permissions_of
from essaim_shared.trust.roles import Role

SUBJECTS = Subjects("lab")
OWN = "essaim.lab.{}.n1"


def may(granted: tuple[str, ...], subject: str) -> bool:
    return any(matches(pattern, subject) for pattern in granted)


def agent(name: str = "n1") -> Permissions:
    return permissions_of("lab", Role.AGENT, name)


def master(name: str = "m1") -> Permissions:
    return permissions_of("lab", Role.MASTER, name)


def test_an_agent_tells_of_itself_and_hears_its_orders_and_answers_and_no_more() -> None:
    assert agent() == Permissions(
        publish=(
            "essaim.lab.register.n1",
            "essaim.lab.heartbeat.n1",
            "essaim.lab.status.n1",
            "essaim.lab.sync.n1",
            "essaim.lab.applied.n1",
            "essaim.lab.network.n1",
            "essaim.lab.figures.n1",
        ),
        subscribe=("essaim.lab.assign.n1", "essaim.lab.inbox.n1.>"),
    )


def test_masters_hear_all_nodes_and_each_its_own_answers() -> None:
    assert master() == Permissions(
        publish=(
            "essaim.lab.assign.*",
            "essaim.lab.echo.*",
            "essaim.lab.raft.*",
            "essaim.lab.raft_greeting.*",
            "essaim.lab.inbox.*.>",
            "essaim.lab.master_inbox.*.>",
        ),
        subscribe=(
            "essaim.lab.register.*",
            "essaim.lab.heartbeat.*",
            "essaim.lab.status.*",
            "essaim.lab.sync.*",
            "essaim.lab.applied.*",
            "essaim.lab.network.*",
            "essaim.lab.figures.*",
            "essaim.lab.echo.*",
            "essaim.lab.raft.*",
            "essaim.lab.raft_greeting.*",
            "essaim.lab.master_inbox.m1.>",
        ),
    )


def test_users_and_those_who_are_no_part_of_it_may_do_nothing() -> None:
    assert permissions_of("lab", Role.USER, "admin") == Permissions((), ())


@pytest.mark.parametrize("kind", USES)
def test_two_agents_share_no_subject(kind: str) -> None:
    """Whatever follows the name, and whatever an agent is called."""
    for name, rest in itertools.product(("n2", "m1", "n1-", "master-m1"), ("", ".x", ".x.y")):
        subject = f"essaim.lab.{kind}.{name}{rest}"
        assert not may(agent().publish, subject)
        assert not may(agent().subscribe, subject)


@pytest.mark.parametrize(
    "subject",
    [
        "_INBOX.n1",
        "_INBOX.agent-n1.x.1",
        "$SYS.REQ.SERVER.PING",
        "$JS.API.INFO",
        "essaim.other.register.n1",
        "essaim.lab.register",
        "essaim.lab.register.n1.x",
        "essaim.lab.inbox.n1",
        "essaim.lab.nosuch.n1",
        "anything",
    ],
)
def test_what_the_table_does_not_name_is_closed_to_everybody(subject: str) -> None:
    for granted in (agent(), master()):
        assert not may(granted.publish, subject)
        assert not may(granted.subscribe, subject)


def test_what_is_said_on_a_subject_can_be_heard_by_those_it_is_for() -> None:
    """Each side of each row of the table meets the other one."""
    names = {"n1": agent(), "m1": master(), "m2": master("m2")}
    for kind, use in USES.items():
        for named in names:
            subject = f"essaim.lab.{kind}.{named}" + (".x.1" if use.has_more else "")
            speakers = {name for name, granted in names.items() if may(granted.publish, subject)}
            hearers = {name for name, granted in names.items() if may(granted.subscribe, subject)}
            if named == "n1" and kind not in ("echo", "raft", "raft_greeting", "master_inbox"):
                assert speakers, kind
                assert hearers, kind
                assert ("n1" in speakers) != ("n1" in hearers), kind
            else:
                assert "n1" not in speakers | hearers, kind


def test_processes_use_subjects_that_their_permissions_hold() -> None:
    node, member = NodeId("n1"), MemberId("m1")
    for said in (
        SUBJECTS.register(node),
        SUBJECTS.heartbeat(node),
        SUBJECTS.status(node),
        SUBJECTS.sync(node),
        SUBJECTS.applied(node),
        SUBJECTS.figures(node),
        SUBJECTS.network_report(node),
    ):
        assert may(agent().publish, said)
        assert may(master().subscribe, said)
    assert may(agent().subscribe, SUBJECTS.assignments(node))
    assert may(agent().subscribe, f"{SUBJECTS.inbox(node)}.0f.1")
    assert may(master().publish, SUBJECTS.assignments(node))
    assert may(master().publish, f"{SUBJECTS.inbox(node)}.0f.1")
    assert may(master().subscribe, f"{SUBJECTS.master_inbox('m1')}.0f.1")
    for shared in (SUBJECTS.echo(member), SUBJECTS.raft(member), SUBJECTS.raft_greeting(member)):
        assert may(master().publish, shared)
        assert may(master().subscribe, shared)
    for pattern in (
        SUBJECTS.all_registers,
        SUBJECTS.all_heartbeats,
        SUBJECTS.all_statuses,
        SUBJECTS.all_syncs,
        SUBJECTS.all_applied,
        SUBJECTS.all_figures,
        SUBJECTS.all_network_reports,
    ):
        check_pattern(pattern)
        assert pattern in master().subscribe


@pytest.mark.parametrize("name", ["", "*", ">", "a.b", "a b", 'a"', "a\n", "ä", "x" * 65])
@pytest.mark.parametrize("role", Role)
def test_names_that_could_mean_more_than_one_subject_get_none(role: Role, name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be part of a bus subject"):
        permissions_of("lab", role, name)
    with pytest.raises(InvalidRequest, match="cannot be part of a bus subject"):
        permissions_of(name, role, "n1")


@pytest.mark.parametrize(
    ("subject", "reply", "is_own"),
    [
        ("essaim.lab.status.n1", "", True),
        ("essaim.lab.status.n1", "essaim.lab.inbox.n1.0f.1", True),
        ("essaim.lab.status.n2", "essaim.lab.inbox.n1.0f.1", False),
        ("essaim.lab.status.n1", "essaim.lab.inbox.n2.0f.1", False),
        ("essaim.lab.status.n1", "essaim.lab.inbox.n1", False),
        ("essaim.lab.status.n1", "essaim.lab.inbox.n11.0f", False),
        ("essaim.lab.status.n1", "essaim.lab.assign.n1", False),
        ("essaim.lab.status.n1", "essaim.lab.master_inbox.n1.0f", False),
        ("essaim.lab.status.n1", "essaim.other.inbox.n1.0f", False),
    ],
)
def test_a_node_is_heard_on_its_own_subjects_and_answered_in_its_own_inbox(
    subject: str, reply: str, is_own: bool
) -> None:
    assert SUBJECTS.is_own(NodeId("n1"), subject, reply) is is_own
