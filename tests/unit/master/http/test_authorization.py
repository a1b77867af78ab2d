"""Who may what: the table of routes against the routes that there are, and the roles."""

import re

import pytest
from support.callers import ROOT, STRANGER, certificate, identity, peer_of, with_user

from essaim_master.http.authorization import RULES, Need, check_allowed, rule_of
from essaim_master.http.caller import Caller
from essaim_master.http.errors import NotAllowed, NotAuthenticated
from essaim_shared.trust.roles import Role

LOCAL = Caller("local", "uid 0", "admin")
ADMIN = Caller("user", "root", "admin")
DEPLOYER = Caller("user", "dora", "deployer")
BOUND = Caller("user", "sam", "deployer", stack="shop")
VIEWER = Caller("user", "vera", "viewer")
BOUND_VIEWER = Caller("user", "val", "viewer", stack="shop")
AGENT = Caller("agent", "n1")
MASTER = Caller("master", "h2")
NOBODY = Caller("nobody")
EVERYBODY = (LOCAL, ADMIN, DEPLOYER, BOUND, VIEWER, BOUND_VIEWER, AGENT, MASTER, NOBODY)

MAY = {
    Need.OPEN: EVERYBODY,
    Need.VIEW: (LOCAL, ADMIN, DEPLOYER, BOUND, VIEWER, BOUND_VIEWER, MASTER),
    Need.OVERVIEW: (LOCAL, ADMIN, DEPLOYER, VIEWER, MASTER),
    Need.DEPLOY: (LOCAL, ADMIN, DEPLOYER, BOUND),
    Need.KEYS: (LOCAL, ADMIN, DEPLOYER, MASTER),
    Need.ADMIN: (LOCAL, ADMIN),
    Need.NODE: (LOCAL, AGENT, MASTER),
    Need.MASTER: (LOCAL, MASTER),
}

UNRECORDED = (Need.KEYS, Need.NODE, Need.MASTER)
"""Users' data, and what processes tell each other."""


def is_let_in(caller: Caller, need: Need) -> bool:
    rule = next(rule for rule in RULES if rule.need is need)
    # Who is nobody can still say who he is; everybody else has.
    refusal = NotAuthenticated if caller is NOBODY else NotAllowed
    try:
        check_allowed(caller, rule)
    except refusal:
        return False
    return True


@pytest.mark.parametrize("need", list(Need))
def test_each_need_lets_in_those_who_have_it_and_no_others(need):
    assert [caller for caller in EVERYBODY if is_let_in(caller, need)] == list(MAY[need])


def path_of(route):
    """`/services/{reference}/update` → `/services/abc/update`."""
    path = re.sub(r"\{\w+:path\}", "a/b", route.path)
    return re.sub(r"\{\w+\}", "abc", path)


def test_the_table_names_every_route(guarded):
    patterns = {rule.pattern for rule in RULES}
    unnamed = [
        f"{method} {route.path}"
        for route in guarded.app.routes
        for method in route.methods
        if rule_of(method, path_of(route)).pattern not in patterns
    ]
    assert not unnamed


def test_every_route_that_changes_something_says_what_for_the_audit_log(guarded):
    silent = [
        f"{method} {route.path}"
        for route in guarded.app.routes
        for method in route.methods - {"GET", "HEAD"}
        if not (rule := rule_of(method, path_of(route))).action and rule.need not in UNRECORDED
    ]
    assert not silent


def test_no_route_that_changes_something_is_open_to_viewers(guarded):
    open_to_viewers = [
        f"{method} {route.path}"
        for route in guarded.app.routes
        for method in route.methods - {"GET", "HEAD"}
        if rule_of(method, path_of(route)).need in (Need.VIEW, Need.OVERVIEW)
    ]
    assert not open_to_viewers


@pytest.mark.parametrize(
    ("method", "path", "need"),
    [
        ("HEAD", "/_ping", Need.OPEN),
        ("POST", "/_ping", Need.ADMIN),
        ("GET", "/services/create", Need.VIEW),
        ("POST", "/services/create", Need.DEPLOY),
        ("POST", "/services/create/more", Need.ADMIN),
        ("PATCH", "/services/web", Need.ADMIN),
        ("GET", "/essaim/kv", Need.KEYS),
        ("PUT", "/essaim/kv/keys/a/b/c", Need.KEYS),
        ("GET", "/essaim/kvx", Need.ADMIN),
        ("GET", "/essaim/raft/dump", Need.ADMIN),
        ("GET", "/essaim/cluster/backup", Need.ADMIN),
        ("GET", "/essaim/node/secrets/a/1", Need.NODE),
        ("POST", "/swarm/init", Need.ADMIN),
        ("POST", "/swarm/update", Need.ADMIN),
        ("GET", "/containers/json", Need.VIEW),
        ("GET", "/", Need.ADMIN),
        ("GET", "", Need.ADMIN),
        ("GET", "//services", Need.ADMIN),
        ("GET", "/SERVICES", Need.ADMIN),
        ("DELETE", "/essaim/whatever/comes", Need.ADMIN),
    ],
)
def test_a_path_takes_what_the_nearest_rule_says_and_else_an_admin(method, path, need):
    assert rule_of(method, path).need is need


def test_what_the_table_does_not_name_is_recorded_as_it_was_asked():
    assert rule_of("DELETE", "/essaim/x").action == "DELETE /essaim/x"
    assert rule_of("GET", "/essaim/x").action == ""


@pytest.mark.parametrize(
    ("caller", "need", "words"),
    [
        (VIEWER, Need.DEPLOY, "it takes the role deployer"),
        (VIEWER, Need.KEYS, "it takes the role deployer"),
        (DEPLOYER, Need.ADMIN, "it takes the role admin"),
        (BOUND, Need.KEYS, "a user who is not bound to one stack (shop)"),
        (BOUND_VIEWER, Need.OVERVIEW, "a user who is not bound to one stack (shop)"),
        (ADMIN, Need.MASTER, "the certificate of a node or master"),
        (AGENT, Need.VIEW, "agent n1 may not do this"),
        (MASTER, Need.ADMIN, "master h2 may not do this"),
    ],
)
def test_who_may_not_is_told_what_it_takes(caller, need, words):
    rule = next(rule for rule in RULES if rule.need is need)
    with pytest.raises(NotAllowed, match=re.escape(words)):
        check_allowed(caller, rule)


# Through the application: every route, for every kind of caller.


async def test_a_viewer_changes_nothing_on_any_route(guarded):
    vera = await with_user(guarded, "vera", "viewer")
    before = guarded.state.revision
    for route in guarded.app.routes:
        for method in route.methods - {"GET", "HEAD"}:
            if rule_of(method, path_of(route)).need is Need.OPEN:
                continue
            answer = await vera.call(method, path_of(route), {})
            assert answer.status == 403, f"{method} {route.path}: {answer.body}"
    assert guarded.state.revision == before


async def test_nobody_and_a_removed_node_get_nowhere_on_any_route(guarded):
    removed = peer_of(certificate("n9", Role.AGENT))
    for route in guarded.app.routes:
        for method in route.methods:
            need = rule_of(method, path_of(route)).need
            for peer in (STRANGER, removed):
                answer = await guarded.call(method, path_of(route), peer=peer)
                if answer.status == 429:
                    await guarded.clock.advance(10.0)
                    answer = await guarded.call(method, path_of(route), peer=peer)
                is_open = peer is STRANGER and need is Need.OPEN
                assert (answer.status == 401) != is_open, f"{method} {route.path}"


async def test_an_agent_reads_and_changes_nothing_of_users(guarded):
    await guarded.write(lambda writes: writes.put(identity(Role.AGENT, "n1")))
    agent = peer_of(certificate("n1", Role.AGENT))
    for method, path in (
        ("GET", "/services"),
        ("POST", "/services/create"),
        ("GET", "/essaim/raft/dump"),
        ("GET", "/essaim/kv/range"),
        ("POST", "/essaim/cluster/standbys"),
    ):
        assert (await guarded.call(method, path, peer=agent)).status == 403


async def test_engine_endpoints_are_still_refused_in_their_own_words(guarded):
    vera = await with_user(guarded, "vera", "viewer")
    answer = await vera.get("/containers/json")
    assert answer.status == 501
    assert "ask the engine of a node" in answer.message


async def test_the_socket_may_everything(guarded):
    answer = await guarded.call("GET", "/essaim/whatever", peer=ROOT)
    assert answer.status == 404
