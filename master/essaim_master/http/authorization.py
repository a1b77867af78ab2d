"""What each request takes: one table of methods and routes, and who may what. Pure.

A route that the table does not name takes an admin, so that a new one is closed until somebody has
thought about it (a test names those that are missing). Which *objects* a request may touch is not
decided here but where they are read (`scope`) and written (`permissions`).
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final

import msgspec

from essaim_master.http.caller import Caller
from essaim_master.http.errors import NotAllowed, NotAuthenticated


class Need(Enum):
    OPEN = "nothing"
    VIEW = "view"
    """Any user; with a scope he is shown his stack's part."""
    OVERVIEW = "overview"
    """Any user without a scope: it is about the cluster as a whole."""
    DEPLOY = "deploy"
    KEYS = "keys"
    """Who may deploy and has no scope: keys of users belong to no stack."""
    ADMIN = "admin"
    NODE = "node"
    """An agent or a master, with its own certificate."""
    MASTER = "master"


class Rule(msgspec.Struct, frozen=True):
    method: str
    """`*`: any."""
    pattern: str
    """Segments of a path; `{}` is any one, a last `{**}` any number."""
    need: Need
    action: str = ""
    """In the audit log's words; empty: what such a request changes is not recorded."""


_GET, _POST, _DELETE, _PUT = "GET", "POST", "DELETE", "PUT"

RULES: Final = (
    Rule(_GET, "/_ping", Need.OPEN),
    Rule(_GET, "/version", Need.OPEN),
    Rule(_GET, "/essaim/leader", Need.OPEN),
    Rule(_GET, "/essaim/authority", Need.OPEN),
    Rule(_POST, "/essaim/join", Need.OPEN, "cluster join"),
    # Docker's API
    Rule(_GET, "/info", Need.VIEW),
    Rule(_GET, "/services", Need.VIEW),
    Rule(_POST, "/services/create", Need.DEPLOY, "service create"),
    Rule(_GET, "/services/{}", Need.VIEW),
    Rule(_DELETE, "/services/{}", Need.DEPLOY, "service rm"),
    Rule(_POST, "/services/{}/update", Need.DEPLOY, "service update"),
    Rule(_GET, "/services/{}/logs", Need.VIEW),
    Rule(_GET, "/tasks", Need.VIEW),
    Rule(_GET, "/tasks/{}", Need.VIEW),
    Rule(_GET, "/tasks/{}/logs", Need.VIEW),
    Rule(_GET, "/nodes", Need.VIEW),
    Rule(_GET, "/nodes/{}", Need.VIEW),
    Rule(_DELETE, "/nodes/{}", Need.ADMIN, "node rm"),
    Rule(_POST, "/nodes/{}/update", Need.ADMIN, "node update"),
    Rule(_GET, "/networks", Need.VIEW),
    Rule(_POST, "/networks/create", Need.DEPLOY, "network create"),
    Rule(_POST, "/networks/prune", Need.DEPLOY, "network prune"),
    Rule(_GET, "/networks/{}", Need.VIEW),
    Rule(_DELETE, "/networks/{}", Need.DEPLOY, "network rm"),
    *(
        rule
        for kind in ("secret", "config")
        for rule in (
            Rule(_GET, f"/{kind}s", Need.VIEW),
            Rule(_POST, f"/{kind}s/create", Need.DEPLOY, f"{kind} create"),
            Rule(_GET, f"/{kind}s/{{}}", Need.VIEW),
            Rule(_DELETE, f"/{kind}s/{{}}", Need.DEPLOY, f"{kind} rm"),
            Rule(_POST, f"/{kind}s/{{}}/update", Need.DEPLOY, f"{kind} update"),
            Rule(_POST, f"/essaim/{kind}s/{{}}/data", Need.DEPLOY, f"{kind} update"),
        )
    ),
    Rule(_GET, "/distribution/{**}", Need.DEPLOY),
    Rule(_GET, "/swarm", Need.VIEW),
    Rule(_POST, "/swarm/update", Need.ADMIN, "swarm update"),
    Rule(_POST, "/swarm/{**}", Need.ADMIN, "swarm"),
    Rule(_GET, "/swarm/{**}", Need.ADMIN),
    # Of a single engine: nothing answers, but in words.
    *(
        Rule("*", f"/{segment}/{{**}}", Need.VIEW)
        for segment in ("auth", "build", "commit", "containers", "events", "exec", "grpc")
    ),
    *(
        Rule("*", f"/{segment}/{{**}}", Need.VIEW)
        for segment in ("images", "plugins", "session", "system", "volumes")
    ),
    # Ours
    Rule(_GET, "/essaim/services/{}/history", Need.VIEW),
    Rule(_GET, "/essaim/services/{}/runs", Need.VIEW),
    Rule(_POST, "/essaim/services/{}/rollback", Need.DEPLOY, "service rollback"),
    Rule(_POST, "/essaim/services/{}/promote", Need.DEPLOY, "service promote"),
    Rule(_GET, "/essaim/stacks", Need.VIEW),
    Rule(_POST, "/essaim/stacks/{}", Need.DEPLOY, "stack deploy"),
    Rule(_DELETE, "/essaim/stacks/{}", Need.DEPLOY, "stack rm"),
    Rule(_GET, "/essaim/wait", Need.VIEW),
    Rule(_GET, "/essaim/figures", Need.VIEW),
    Rule(_GET, "/metrics", Need.OVERVIEW),
    Rule(_GET, "/essaim/network/doctor", Need.OVERVIEW),
    Rule(_GET, "/essaim/raft", Need.VIEW),
    Rule(_GET, "/essaim/raft/log", Need.ADMIN),
    Rule(_GET, "/essaim/raft/dump", Need.ADMIN),
    Rule(_GET, "/essaim/cluster/backup", Need.ADMIN),
    Rule(_POST, "/essaim/cluster/data-key/rotate", Need.ADMIN, "cluster rotate-data-key"),
    Rule(_GET, "/essaim/cluster/status", Need.VIEW),
    Rule(_GET, "/essaim/cluster/hash", Need.VIEW),
    Rule(_GET, "/essaim/cluster/standbys", Need.VIEW),
    Rule(_POST, "/essaim/cluster/standbys", Need.MASTER),
    Rule(_GET, "/essaim/cluster/members", Need.VIEW),
    Rule(_POST, "/essaim/cluster/members", Need.ADMIN, "cluster members add"),
    Rule(_POST, "/essaim/cluster/members/{}/promote", Need.ADMIN, "cluster members promote"),
    Rule(_DELETE, "/essaim/cluster/members/{}", Need.ADMIN, "cluster members rm"),
    Rule(_POST, "/essaim/cluster/nodes/{}/role", Need.ADMIN, "node update"),
    Rule(_POST, "/essaim/cluster/transfer-leadership", Need.ADMIN, "cluster transfer-leadership"),
    Rule(_POST, "/essaim/nodes/{}/readmit", Need.ADMIN, "node readmit"),
    Rule(_GET, "/essaim/cluster/ca", Need.VIEW),
    Rule(_POST, "/essaim/cluster/ca/rotate", Need.ADMIN, "cluster ca rotate"),
    Rule(_GET, "/essaim/cluster/join-tokens", Need.ADMIN),
    Rule(_POST, "/essaim/cluster/join-tokens/rotate", Need.ADMIN, "cluster join-token rotate"),
    Rule(_GET, "/essaim/audit", Need.ADMIN),
    Rule(_GET, "/essaim/users", Need.ADMIN),
    Rule(_POST, "/essaim/users", Need.ADMIN, "user add"),
    Rule(_GET, "/essaim/users/{}", Need.ADMIN),
    Rule(_DELETE, "/essaim/users/{}", Need.ADMIN, "user rm"),
    Rule(_GET, "/essaim/users/{}/tokens", Need.ADMIN),
    Rule(_POST, "/essaim/users/{}/tokens", Need.ADMIN, "user token"),
    Rule(_DELETE, "/essaim/users/{}/tokens/{}", Need.ADMIN, "user token rm"),
    Rule(_POST, "/essaim/users/{}/certificate", Need.ADMIN, "user certificate"),
    Rule(_DELETE, "/essaim/users/{}/certificate", Need.ADMIN, "user certificate rm"),
    Rule(_POST, "/essaim/cluster/data-key/rotate", Need.ADMIN, "cluster data-key rotate"),
    Rule("*", "/essaim/kv/{**}", Need.KEYS),
    # Between processes of the cluster
    Rule("*", "/essaim/node/{**}", Need.NODE),
    Rule("*", "/essaim/identity/{**}", Need.NODE),
    Rule("*", "/essaim/bus/{**}", Need.MASTER),
)


class _Branch:
    __slots__ = ("any", "named", "rules", "tail")

    def __init__(self) -> None:
        self.named: dict[str, _Branch] = {}
        self.any: _Branch | None = None
        self.rules: dict[str, Rule] = {}
        self.tail: dict[str, Rule] = {}


def rule_of(method: str, path: str) -> Rule:
    """HEAD counts as GET. For what the table does not name: an admin, and the action is the
    request itself."""
    method = _GET if method == "HEAD" else method
    found = _found(_TREE, path.split("/")[1:], method)
    if found is not None:
        return found
    action = "" if method == _GET else f"{method} {path}"
    return Rule(method, path, Need.ADMIN, action)


def check_allowed(caller: Caller, rule: Rule) -> None:
    """Raises NotAuthenticated for nobody where somebody is needed, NotAllowed."""
    need = rule.need
    if need is Need.OPEN or caller.kind == "local" or _is_trusted(caller, need):
        return
    if caller.kind == "nobody":
        raise NotAuthenticated(
            "this takes a user: show a client certificate or a token (essaim context create)"
        )
    if caller.kind != "user":
        raise NotAllowed(f"{caller.who} may not do this: it is no part of a node's work")
    lacks = _lacking(caller, need)
    if lacks:
        raise NotAllowed(f"{caller.who} may not do this: it takes {lacks}")


def _is_trusted(caller: Caller, need: Need) -> bool:
    """A master holds all of the state anyway; what it hands on for others is judged as theirs."""
    if caller.kind == "master":
        return need in (Need.VIEW, Need.OVERVIEW, Need.KEYS, Need.NODE, Need.MASTER)
    return caller.kind == "agent" and need is Need.NODE


def _lacking(caller: Caller, need: Need) -> str:
    """What a user would need to have; empty when he has it."""
    if need in (Need.NODE, Need.MASTER):
        return "the certificate of a node or master"
    if caller.role == "admin" or need is Need.VIEW:
        return ""
    if need is Need.ADMIN:
        return "the role admin"
    if need is not Need.OVERVIEW and caller.role != "deployer":
        return "the role deployer"
    if need is not Need.DEPLOY and caller.stack:
        return f"a user who is not bound to one stack ({caller.stack})"
    return ""


def _found(branch: _Branch, segments: list[str], method: str) -> Rule | None:
    """A named segment before any, a whole pattern before one with a tail."""
    if not segments:
        return (
            branch.rules.get(method)
            or branch.rules.get("*")
            or branch.tail.get(method)
            or branch.tail.get("*")
        )
    first, rest = segments[0], segments[1:]
    for next_branch in (branch.named.get(first), branch.any):
        if next_branch is not None:
            found = _found(next_branch, rest, method)
            if found is not None:
                return found
    return branch.tail.get(method) or branch.tail.get("*")


def _tree(rules: Iterable[Rule]) -> _Branch:
    root = _Branch()
    for rule in rules:
        branch = root
        segments = rule.pattern.split("/")[1:]
        has_tail = segments[-1] == "{**}"
        for segment in segments[:-1] if has_tail else segments:
            if segment == "{}":
                branch.any = branch.any or _Branch()
                branch = branch.any
            else:
                branch = branch.named.setdefault(segment, _Branch())
        (branch.tail if has_tail else branch.rules)[rule.method] = rule
    return root


_TREE: Final = _tree(RULES)
