"""Tokens: written and read back, and what is none is told so without being repeated."""

import pytest

from essaim_shared.errors import InvalidRequest
from essaim_shared.trust.tokens import (
    JoinToken,
    new_secret,
    new_user_token,
    parse_join_token,
    parse_user_token,
)

DIGEST = "00" * 4 + "ab" * 28


def test_a_join_token_is_read_as_it_was_written() -> None:
    token = JoinToken(DIGEST, new_secret())
    assert parse_join_token(f" {token.text}\n") == token


def test_the_largest_digest_fits() -> None:
    token = JoinToken("ff" * 32, new_secret())
    assert parse_join_token(token.text) == token


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SWMTKN-1-abc-def",
        "ESMTKN-1-" + "0" * 50 + "-" + "0" * 24,
        "ESMTKN-1-" + "z" * 50 + "-" + "0" * 25,
        "x" * 100_000,
    ],
)
def test_what_is_no_join_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_join_token(text)
    assert not text or text not in str(refusal.value)


def test_secrets_are_in_no_repr() -> None:
    join, user = JoinToken(DIGEST, new_secret()), new_user_token()
    assert join.secret not in repr(join)
    assert user.secret not in repr(user)


def test_a_users_token_is_found_by_its_id_and_proved_by_its_digest() -> None:
    token = new_user_token()
    read = parse_user_token(token.text)
    assert read == token
    assert read is not None
    assert read.digest == token.digest
    assert parse_user_token(token.text + "0") is None
    assert parse_user_token("Bearer " + token.text) is None
