"""A cluster's first hour, written and read back."""

from pathlib import Path

import pytest

from essaim_shared.errors import ConfigError
from essaim_shared.trust.certificates import authority_digest, facts_of, is_signed_by
from essaim_shared.trust.founding import FOUNDING_FILE, Founder, read_founding, write_founding
from essaim_shared.trust.identity import read_identity, write_identity
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tokens import parse_join_token

NOW_NS = 1_790_000_000 * 1_000_000_000


def test_who_is_admitted_is_known_to_the_state_that_comes(tmp_path: Path) -> None:
    founder = Founder("lab", NOW_NS)
    master = founder.admit(Role.MASTER, "h1", addresses=["10.0.0.1"], masters=["10.0.0.1:7400"])
    founder.admit(Role.AGENT, "node1")
    founder.admit(Role.USER, "admin")
    founding = founder.founding
    assert [(one.role, one.name) for one in founding.identities] == [
        (Role.MASTER, "h1"),
        (Role.AGENT, "node1"),
    ]
    assert [user.name for user in founding.users] == ["admin"]
    certificate = master.own_pem.partition(b"-----END PRIVATE KEY-----\n")[2]
    assert facts_of(certificate).serial == founding.identities[0].serial
    assert is_signed_by(certificate, [founding.authority_pem])
    write_identity(tmp_path, master)
    assert read_identity(tmp_path) == master


def test_its_two_tokens_name_the_authority_and_differ() -> None:
    founding = Founder("lab", NOW_NS).founding
    worker, of_master = (
        parse_join_token(token.text) for token in (founding.worker_token, founding.master_token)
    )
    assert worker.authority_digest == of_master.authority_digest
    assert worker.authority_digest == authority_digest(founding.authority_pem)
    assert worker.secret != of_master.secret


def test_the_file_is_private_and_read_back(tmp_path: Path) -> None:
    founding = Founder("lab", NOW_NS).founding
    assert read_founding(tmp_path) is None
    write_founding(tmp_path, founding)
    assert (tmp_path / FOUNDING_FILE).stat().st_mode & 0o777 == 0o600
    assert read_founding(tmp_path) == founding
    assert "PRIVATE" not in repr(founding)
    (tmp_path / FOUNDING_FILE).write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="damaged"):
        read_founding(tmp_path)


def test_an_identity_that_others_may_read_is_refused(tmp_path: Path) -> None:
    write_identity(tmp_path, Founder("lab", NOW_NS).admit(Role.AGENT, "node1"))
    (tmp_path / "own.pem").chmod(0o644)
    with pytest.raises(ConfigError, match="others may read it: run chmod 600"):
        read_identity(tmp_path)


def test_a_machine_that_never_joined_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has not joined the cluster"):
        read_identity(tmp_path)
