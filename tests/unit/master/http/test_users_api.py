"""Users, their tokens and their certificates, through the API."""

import asyncio

import pytest
from support.callers import ROOT, STRANGER, certificate, peer_of, user_with_token

from essaim_shared.limits import USER_TOKENS_MAX, USERS_MAX
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tokens import parse_user_token
from essaim_shared.trust_objects import User

S_NS = 1_000_000_000


async def asked(world, method, url, body=b""):
    return await world.call(method, url, body, peer=ROOT)


async def add(world, name="ann", role="viewer", **rest):
    return await asked(world, "POST", "/essaim/users", {"Name": name, "Role": role, **rest})


async def token_of(world, name="ann", **body):
    answer = await asked(world, "POST", f"/essaim/users/{name}/tokens", body)
    assert answer.status == 201, answer.body
    return answer.json


async def as_holder(world, token, url="/services"):
    headers = {"Authorization": f"Bearer {token}"}
    return (await world.call("GET", url, headers=headers, peer=STRANGER)).status


async def test_a_user_is_made_shown_and_removed(guarded):
    answer = await add(guarded, "ann", "deployer", Stack="shop")
    assert answer.status == 201
    assert answer.json["Name"] == "ann"
    [shown] = (await asked(guarded, "GET", "/essaim/users")).json
    assert (shown["Role"], shown["Stack"], shown["Tokens"]) == ("deployer", "shop", [])
    assert (await asked(guarded, "GET", "/essaim/users/ann")).json == shown
    assert (await asked(guarded, "DELETE", "/essaim/users/ann")).status == 204
    answer = await asked(guarded, "GET", "/essaim/users/ann")
    assert (answer.status, answer.message) == (404, "user ann not found")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"Name": "", "Role": "viewer"}, "is no name of a user"),
        ({"Name": "a/b", "Role": "viewer"}, "is no name of a user"),
        ({"Name": "é", "Role": "viewer"}, "is no name of a user"),
        ({"Name": "-a", "Role": "viewer"}, "is no name of a user"),
        ({"Name": "a" * 64, "Role": "viewer"}, "is no name of a user"),
        ({"Name": "a", "Role": "king"}, "Invalid enum value 'king'"),
        ({"Name": "a"}, "missing required field `Role`"),
        ({"Name": "a", "Role": "viewer", "Sudo": True}, "unknown field `Sudo`"),
        ({"Name": "a", "Role": "viewer", "Stack": "a b"}, "is no name of a stack"),
        ({"Name": "a", "Role": "admin", "Stack": "shop"}, "an admin is not bound to a stack"),
    ],
)
async def test_what_is_no_user_is_refused_in_words(guarded, body, words):
    answer = await asked(guarded, "POST", "/essaim/users", body)
    assert (answer.status, words in answer.message) == (400, True), answer.message
    assert not guarded.state.users


async def test_a_name_is_taken_once(guarded):
    await add(guarded)
    answer = await add(guarded)
    assert (answer.status, answer.message) == (409, "user ann already exists")


async def test_there_are_so_many_users_and_tokens_at_most(guarded):
    for start in range(0, USERS_MAX, 100):
        await guarded.write(
            lambda writes, start=start: [
                writes.put(User(name=f"u{number}", role="viewer", created_ns=0))
                for number in range(start, start + 100)
            ]
        )
    answer = await add(guarded)
    assert (answer.status, f"there are {USERS_MAX} users" in answer.message) == (409, True)
    for _ in range(USER_TOKENS_MAX - 1):
        await token_of(guarded, "u1")
    await token_of(guarded, "u1", ValidSeconds=60)
    answer = await asked(guarded, "POST", "/essaim/users/u1/tokens")
    assert (answer.status, f"has {USER_TOKENS_MAX} tokens" in answer.message) == (409, True)
    await guarded.clock.advance(61)
    await token_of(guarded, "u1")
    assert len(guarded.state.users["u1"].tokens) == USER_TOKENS_MAX


async def test_a_token_opens_until_it_expires_or_is_removed(guarded):
    await add(guarded)
    kept, short = await token_of(guarded), await token_of(guarded, ValidSeconds=60)
    assert [await as_holder(guarded, one["Token"]) for one in (kept, short)] == [200, 200]
    await guarded.clock.advance(60)
    assert [await as_holder(guarded, one["Token"]) for one in (kept, short)] == [200, 401]
    url = f"/essaim/users/ann/tokens/{kept['ID']}"
    assert (await asked(guarded, "DELETE", url)).status == 204
    assert await as_holder(guarded, kept["Token"]) == 401
    assert (await asked(guarded, "DELETE", url)).status == 404


async def test_a_removed_users_tokens_are_worth_nothing_even_when_the_name_comes_back(guarded):
    await add(guarded)
    token = (await token_of(guarded))["Token"]
    await asked(guarded, "DELETE", "/essaim/users/ann")
    assert await as_holder(guarded, token) == 401
    await add(guarded)
    assert await as_holder(guarded, token) == 401


async def test_nothing_but_the_first_answer_holds_a_token(guarded):
    await add(guarded)
    made = await token_of(guarded)
    secret = parse_user_token(made["Token"]).secret
    listed = (await asked(guarded, "GET", "/essaim/users/ann/tokens")).json
    assert listed == [{name: made[name] for name in ("ID", "CreatedAt", "ExpiresAt")}]
    shown = [
        (await asked(guarded, "GET", url)).body
        for url in ("/essaim/users", "/essaim/users/ann", "/essaim/audit")
    ]
    stored = [value.value for value in guarded.state.store.between(b"", b"")]
    assert not [text for text in (*shown, *stored) if secret.encode() in text]


@pytest.mark.parametrize("valid_s", [-1, 10**12, "x", 1.5])
async def test_how_long_a_token_holds_is_a_number_in_bounds(guarded, valid_s):
    await add(guarded)
    answer = await asked(guarded, "POST", "/essaim/users/ann/tokens", {"ValidSeconds": valid_s})
    assert answer.status == 400


async def test_the_last_admin_stays(guarded):
    await add(guarded, "ann", "admin")
    await add(guarded, "vera", "viewer")
    answer = await asked(guarded, "DELETE", "/essaim/users/ann")
    assert (answer.status, "is the last admin" in answer.message) == (409, True)
    await add(guarded, "bob", "admin")
    assert (await asked(guarded, "DELETE", "/essaim/users/ann")).status == 204


async def test_two_admins_who_remove_each_other_do_not_both_succeed(guarded):
    await add(guarded, "ann", "admin")
    await add(guarded, "bob", "admin")

    async def rival():
        answer = await asked(guarded, "DELETE", "/essaim/users/ann")
        assert answer.status == 204

    guarded.cluster.before_commit.append(rival)
    answer = await asked(guarded, "DELETE", "/essaim/users/bob")
    assert (answer.status, "is the last admin" in answer.message) == (409, True)
    assert set(guarded.state.users) == {"bob"}


async def test_two_tokens_that_are_made_at_once_are_both_there(guarded):
    await add(guarded)
    made = await asyncio.gather(*(token_of(guarded) for _ in range(4)))
    assert {one["ID"] for one in made} == {one.id for one in guarded.state.users["ann"].tokens}


async def test_certificates_are_taken_back_and_newer_ones_are_taken(guarded):
    await add(guarded)
    now_ns = guarded.clock.wall_ns()

    async def status_with(made_ns):
        peer = peer_of(certificate("ann", Role.USER, made_ns // S_NS * S_NS))
        return (await guarded.call("GET", "/services", peer=peer)).status

    assert await status_with(now_ns) == 200
    assert await status_with(now_ns - 2 * S_NS) == 401  # of a user of that name before
    assert (await asked(guarded, "DELETE", "/essaim/users/ann/certificate")).status == 204
    assert await status_with(now_ns) == 401
    assert await status_with(guarded.state.users["ann"].certificates_since_ns) == 200


async def test_a_master_without_an_authority_signs_nothing_and_says_so(guarded):
    await add(guarded)
    answer = await asked(
        guarded, "POST", "/essaim/users/ann/certificate", {"Request": "-----BEGIN"}
    )
    assert (answer.status, "has no authority" in answer.message) == (501, True)


async def test_only_admins_manage_users(guarded):
    for role in ("viewer", "deployer"):
        user, token = user_with_token(role, role)
        await guarded.write(lambda writes, user=user: writes.put(user))
        headers = {"Authorization": f"Bearer {token.text}", "Content-Type": "application/json"}
        for method, url in (
            ("GET", "/essaim/users"),
            ("POST", "/essaim/users"),
            ("POST", f"/essaim/users/{role}/tokens"),
            ("POST", f"/essaim/users/{role}/certificate"),
            ("GET", "/essaim/audit"),
        ):
            answer = await guarded.call(method, url, {}, headers=headers, peer=STRANGER)
            assert answer.status == 403
