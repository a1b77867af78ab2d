"""What a connection and its headers prove, and what the state makes of it."""

import msgspec
import pytest
from support.callers import (
    ADDRESS,
    CLUSTER_ID,
    ROOT,
    STRANGER,
    certificate,
    identity,
    user_with_token,
    with_user,
)

from essaim_master.http.authentication import (
    BEHALF_BYTES_MAX,
    BEHALF_HEADER,
    Shown,
    authenticate,
    encode_behalf,
)
from essaim_master.http.caller import Caller
from essaim_master.http.errors import NotAuthenticated
from essaim_master.http.gate import BURST_S, NOBODYS_REQUESTS_PER_S
from essaim_master.http.protocol import Peer
from essaim_master.kv.store import KeyValueStore
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.writes import Writes
from essaim_shared.clock import ManualClock
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import PeerCertificate
from essaim_shared.trust.tokens import new_user_token
from essaim_shared.trust_objects import NodeIdentity, User

S_NS = 1_000_000_000
NOW_NS = 100 * S_NS


async def state_of(*objects: User | NodeIdentity) -> ClusterState:
    cluster = LocalCluster(ManualClock(), Member("h1", "h1:1", "h1:2"))
    writes = Writes()
    for one in objects:
        writes.put(one)
    for transaction in writes.transactions():
        await cluster.commit(transaction, 1.0)
    return cluster.state


def judged(state: ClusterState, **shown: object) -> Caller:
    shown.setdefault("address", ADDRESS)
    return authenticate(Shown(**shown), state, CLUSTER_ID, NOW_NS)


def refusal(state: ClusterState, **shown: object) -> str:
    with pytest.raises(NotAuthenticated) as refused:
        judged(state, **shown)
    text = str(refused.value)
    assert "\n" not in text
    return text


async def test_a_masters_own_socket_makes_an_admin_who_is_known_by_his_uid() -> None:
    caller = judged(await state_of(), uid=1000, address="")
    assert (caller.kind, caller.who, caller.role) == ("local", "uid 1000", "admin")


async def test_a_master_without_an_identity_lets_everybody_in() -> None:
    state = ClusterState(KeyValueStore())
    caller = authenticate(Shown(address=ADDRESS), state, None, NOW_NS)
    assert (caller.kind, caller.role, caller.address) == ("local", "admin", ADDRESS)


async def test_who_shows_nothing_is_nobody() -> None:
    caller = judged(await state_of())
    assert (caller.kind, caller.role, caller.address) == ("nobody", None, ADDRESS)


async def test_a_token_is_worth_what_the_state_says_of_its_user() -> None:
    user, token = user_with_token("ann", "deployer", "shop")
    caller = judged(await state_of(user), authorization=f"Bearer {token.text}")
    assert caller == Caller("user", "ann", "deployer", "shop", ADDRESS)
    assert judged(await state_of(user), authorization=f"bearer {token.text}") == caller


async def test_a_token_counts_before_a_certificate() -> None:
    user, token = user_with_token("ann", "viewer")
    state = await state_of(user, identity(Role.AGENT, "n1"))
    shown = certificate("n1", Role.AGENT)
    caller = judged(state, authorization=f"Bearer {token.text}", certificate=shown)
    assert caller.who == "user ann"


async def test_a_token_that_proves_nothing_is_refused_in_words_without_repeating_it() -> None:
    user, token = user_with_token("ann", "admin")
    old_user, old = user_with_token("bob", "admin", expires_ns=NOW_NS)
    state = await state_of(user, old_user)
    forged = f"esmusr_{token.id}_{new_user_token().secret}"
    for text, words in (
        (new_user_token().text, "not known here"),
        (forged, "not known here"),
        ("let-me-in", "no token of a user"),
        ("", "no token of a user"),
        ("x" * 10_000, "no token of a user"),
        (old.text, "token of user bob has expired"),
    ):
        message = refusal(state, authorization=f"Bearer {text}")
        assert words in message
        assert token.secret not in message
        assert not text or text not in message
    assert "not `Bearer TOKEN`" in refusal(state, authorization="Basic YWRtaW46YWRtaW4=")


async def test_a_token_that_is_taken_away_is_worth_nothing_at_once() -> None:
    user, token = user_with_token("ann", "admin")
    state = await state_of(user, msgspec.structs.replace(user, tokens=()))
    assert "not known here" in refusal(state, authorization=f"Bearer {token.text}")


async def test_a_users_certificate_is_worth_what_the_state_says_of_him() -> None:
    user, _ = user_with_token("ann", "viewer")
    state = await state_of(user)
    assert judged(state, certificate=certificate("ann", Role.USER)).role == "viewer"
    assert "there is no user eve" in refusal(state, certificate=certificate("eve", Role.USER))


@pytest.mark.parametrize(("made_s", "is_good"), [(49, False), (50, True), (51, True)])
async def test_certificates_from_before_a_moment_are_refused(made_s: int, is_good: bool) -> None:
    user, _ = user_with_token("ann", "admin", certificates_since_ns=50 * S_NS)
    state, shown = await state_of(user), certificate("ann", Role.USER, made_s * S_NS)
    if is_good:
        assert judged(state, certificate=shown).who == "user ann"
    else:
        assert "certificate of user ann was revoked" in refusal(state, certificate=shown)


@pytest.mark.parametrize("role", [Role.AGENT, Role.MASTER])
async def test_a_process_counts_while_its_identity_stands_in_the_state(role: Role) -> None:
    state = await state_of(identity(role, "p1"))
    caller = judged(state, certificate=certificate("p1", role))
    assert caller.who == f"{role.value.removeprefix('essaim-')} p1"
    assert caller.role is None
    assert "p2 was removed" in refusal(state, certificate=certificate("p2", role))
    replaced = certificate("p1", role, serial="a0", made_ns=0)
    assert "has renewed its certificate" in refusal(state, certificate=replaced)
    other = Role.MASTER if role is Role.AGENT else Role.AGENT
    assert "p1 was removed" in refusal(state, certificate=certificate("p1", other))


async def test_another_clusters_certificate_and_an_unknown_role_prove_nothing() -> None:
    state = await state_of(identity(Role.AGENT, "n1"), user_with_token("ann", "admin")[0])
    for role, name in ((Role.AGENT, "n1"), (Role.USER, "ann")):
        foreign = certificate(name, role, cluster_id="elsewhere")
        assert "one of cluster 'elsewhere'" in refusal(state, certificate=foreign)
    odd = PeerCertificate("n1", "essaim-king", CLUSTER_ID, "a1", 0)
    assert "role 'essaim-king': it is none" in refusal(state, certificate=odd)


async def test_only_a_master_speaks_for_others() -> None:
    user, token = user_with_token("ann", "viewer")
    state = await state_of(user, identity(Role.MASTER, "h2"), identity(Role.AGENT, "n1"))
    admin = Caller("user", "root", "admin", address="203.0.113.1:9")
    behalf = encode_behalf(admin)
    assert judged(state, certificate=certificate("h2", Role.MASTER), behalf=behalf) == admin
    agent = judged(state, certificate=certificate("n1", Role.AGENT), behalf=behalf)
    assert agent.who == "agent n1"
    assert judged(state, authorization=f"Bearer {token.text}", behalf=behalf).who == "user ann"
    assert judged(state, behalf=behalf).kind == "nobody"


@pytest.mark.parametrize("behalf", [b"", b"{", b'{"kind":"king"}', b"x" * (BEHALF_BYTES_MAX + 1)])
async def test_a_damaged_word_for_others_is_refused(behalf: bytes) -> None:
    state = await state_of(identity(Role.MASTER, "h2"))
    shown = certificate("h2", Role.MASTER)
    assert BEHALF_HEADER in refusal(state, certificate=shown, behalf=behalf)


def test_what_was_shown_is_never_printed() -> None:
    token = new_user_token()
    assert token.secret not in repr(Shown(authorization=f"Bearer {token.text}"))


# Through the application.


async def test_nobody_learns_who_answers_and_no_more(guarded):
    assert (await guarded.call("GET", "/_ping", peer=STRANGER)).status == 200
    assert (await guarded.call("GET", "/v1.41/version", peer=STRANGER)).status == 200
    answer = await guarded.call("GET", "/services", peer=STRANGER)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "client certificate or a token" in answer.message


async def test_the_socket_and_a_user_are_let_in(guarded):
    assert (await guarded.call("GET", "/services", peer=ROOT)).status == 200
    ann = await with_user(guarded, "ann", "viewer")
    assert (await ann.get("/services")).status == 200


async def test_a_bad_proof_is_told_even_where_none_is_needed(guarded):
    headers = {"Authorization": f"Bearer {new_user_token().text}"}
    answer = await guarded.call("GET", "/_ping", headers=headers, peer=STRANGER)
    assert answer.status == 401


async def test_a_user_made_at_another_master_is_known_here_once_this_one_caught_up(guarded):
    user, token = user_with_token("ann", "viewer")
    guarded.cluster.before_barrier.append(lambda: guarded.write(lambda writes: writes.put(user)))
    headers = {"Authorization": f"Bearer {token.text}"}
    answer = await guarded.call("GET", "/services", headers=headers, peer=STRANGER)
    assert answer.status == 200


async def test_without_a_quorum_an_unknown_user_is_told_so(guarded):
    guarded.cluster.available = False
    headers = {"Authorization": f"Bearer {new_user_token().text}"}
    answer = await guarded.call("GET", "/_ping", headers=headers, peer=STRANGER)
    assert answer.status == 503
    assert "no quorum" in answer.message


async def test_two_headers_are_refused(guarded):
    ann = user_with_token("ann", "admin")[1]
    headers = {"Authorization": f"Bearer {ann.text}", "authorization": "Bearer x"}
    answer = await guarded.call("GET", "/_ping", headers=headers, peer=STRANGER)
    assert (answer.status, answer.message) == (401, "the header authorization is given twice")


async def test_guessing_is_slowed_down_for_its_address_alone(guarded):
    headers = {"Authorization": f"Bearer {new_user_token().text}"}
    barriers = guarded.cluster.barriers
    guesses = int(NOBODYS_REQUESTS_PER_S * BURST_S) + 20
    statuses = [
        (await guarded.call("GET", "/_ping", headers=headers, peer=STRANGER)).status
        for _ in range(guesses)
    ]
    assert statuses.count(429) == 20
    assert guarded.cluster.barriers - barriers == guesses - 20
    elsewhere = Peer(address="203.0.113.9:1")
    assert (await guarded.call("GET", "/_ping", peer=elsewhere)).status == 200
    late = await guarded.call("GET", "/_ping", peer=STRANGER)
    assert late.headers["retry-after"] == "1"
    assert "198.51.100.7 asks more than 50 times a second" in late.message
    await guarded.clock.advance(1.0)
    assert (await guarded.call("GET", "/_ping", peer=STRANGER)).status == 200


async def test_those_who_are_turned_away_are_counted_and_logged(guarded, caplog):
    ann = await with_user(guarded, "ann", "viewer")
    assert (await ann.post("/services/create", {"Name": "x"})).status == 403
    assert (await guarded.call("GET", "/services", peer=STRANGER)).status == 401
    page = (await guarded.call("GET", "/metrics", peer=ROOT)).body.decode()
    assert 'essaim_master_requests_refused_total{reason="forbidden"} 1\n' in page
    assert 'essaim_master_requests_refused_total{reason="unauthenticated"} 1\n' in page
    lines = [record.getMessage() for record in caplog.records]
    assert any('who="user ann"' in line and "/services/create" in line for line in lines)
    assert any(f"source={ADDRESS}" in line for line in lines)
