"""What the cluster's authority signs, and what it refuses."""

import pytest

from essaim_shared.errors import InvalidRequest
from essaim_shared.trust.certificates import (
    Authority,
    authority_digest,
    facts_of,
    is_signed_by,
    issuer_digest,
    new_request,
    request_key_digest,
    split_bundle,
)
from essaim_shared.trust.roles import Role, Subject

NOW_NS = 1_790_000_000 * 1_000_000_000
DAY_NS = 86_400 * 1_000_000_000
NODE = Subject(name="node1", role=Role.AGENT, cluster_id="lab")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new("lab", NOW_NS)


def test_a_certificate_says_who_holds_it_and_for_how_long(authority: Authority) -> None:
    asked = new_request("whatever the asker writes")
    facts = facts_of(authority.issue(asked.request_pem, NODE, NOW_NS, lifetime_s=86_400))
    assert facts.subject == NODE
    assert facts.not_before_ns < NOW_NS
    assert facts.not_after_ns == NOW_NS + DAY_NS
    assert facts.key_digest == request_key_digest(asked.request_pem)
    assert facts.authority_digest == issuer_digest(authority.certificate_pem)


def test_only_the_authority_that_signed_vouches(authority: Authority) -> None:
    stranger = Authority.new("lab", NOW_NS)
    issued = authority.issue(new_request("x").request_pem, NODE, NOW_NS)
    assert is_signed_by(issued, [stranger.certificate_pem, authority.certificate_pem])
    assert not is_signed_by(issued, [stranger.certificate_pem])
    assert authority_digest(authority.certificate_pem) != authority_digest(stranger.certificate_pem)


def test_an_authority_is_kept_as_two_texts(authority: Authority) -> None:
    again = Authority(authority.certificate_pem, authority.key_pem)
    issued = again.issue(new_request("x").request_pem, NODE, NOW_NS)
    assert is_signed_by(issued, [authority.certificate_pem])
    other = Authority.new("lab", NOW_NS)
    with pytest.raises(InvalidRequest, match="not its own"):
        Authority(authority.certificate_pem, other.key_pem)
    with pytest.raises(InvalidRequest, match="damaged"):
        Authority(authority.certificate_pem, b"no key")


def test_no_repr_shows_a_key(authority: Authority) -> None:
    asked = new_request("x")
    assert "PRIVATE" in asked.key_pem.decode()
    assert "PRIVATE" not in repr(asked) + repr(authority)


@pytest.mark.parametrize(
    ("request_pem", "words"),
    [
        (b"", "no certificate request"),
        (
            b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
            "no cer",
        ),
        (b"x" * 9000, "over 8192 bytes"),
    ],
)
def test_what_is_no_request_is_refused(
    authority: Authority, request_pem: bytes, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        authority.issue(request_pem, NODE, NOW_NS)


def test_a_request_that_was_changed_on_the_way_is_refused(authority: Authority) -> None:
    lines = new_request("x").request_pem.decode().splitlines()
    other = new_request("x").request_pem.decode().splitlines()
    mixed = "\n".join([*lines[:-2], other[-2], lines[-1]]) + "\n"
    with pytest.raises(InvalidRequest):
        authority.issue(mixed.encode(), NODE, NOW_NS)


def test_a_name_must_fit(authority: Authority) -> None:
    long = Subject(name="n" * 65, role=Role.AGENT, cluster_id="lab")
    with pytest.raises(InvalidRequest, match="does not fit"):
        authority.issue(new_request("x").request_pem, long, NOW_NS)


def test_an_address_that_is_none_is_refused(authority: Authority) -> None:
    master = Subject(name="h1", role=Role.MASTER, cluster_id="lab")
    with pytest.raises(InvalidRequest, match="neither an address nor a host name"):
        authority.issue(new_request("x").request_pem, master, NOW_NS, ["ümlaut"])


def test_a_bundle_is_taken_apart(authority: Authority) -> None:
    other = Authority.new("lab", NOW_NS)
    parts = split_bundle(authority.certificate_pem + other.certificate_pem)
    assert parts == (authority.certificate_pem, other.certificate_pem)
    with pytest.raises(InvalidRequest):
        split_bundle(b"nothing")
