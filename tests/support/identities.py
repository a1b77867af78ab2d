"""Identity directories as a cluster's authority makes them, for tests."""

from pathlib import Path
from typing import Any

from essaim_shared.trust.bus_keys import new_seed
from essaim_shared.trust.certificates import CERTIFICATE_LIFETIME_S, Authority, new_request
from essaim_shared.trust.identity import About, Identity, write_identity
from essaim_shared.trust.roles import Role, Subject
from essaim_shared.trust.tls import Tls


def make_identity(
    directory: Path,
    authority: Authority,
    role: Role,
    name: str,
    now_ns: int,
    *,
    cluster_id: str = "lab",
    addresses: tuple[str, ...] = ("127.0.0.1",),
    lifetime_s: int = CERTIFICATE_LIFETIME_S,
    believed_pem: bytes | None = None,
) -> Identity:
    """Write the directory. `believed_pem`: whom it believes, when not this authority."""
    asked = new_request(name)
    issued = authority.issue(
        asked.request_pem, Subject(name, role, cluster_id), now_ns, addresses, lifetime_s
    )
    identity = Identity(
        about=About(cluster_id=cluster_id, name=name, role=role),
        authorities_pem=authority.certificate_pem if believed_pem is None else believed_pem,
        own_pem=asked.key_pem + issued,
        bus_seed="" if role is Role.USER else new_seed(),
    )
    write_identity(directory, identity)
    return identity


class Identities:
    """Of one cluster, `lab`, whose authority is made with it."""

    def __init__(self, root: Path, now_ns: int) -> None:
        self.root = root
        self.now_ns = now_ns
        self.authority = Authority.new("lab", now_ns)

    def tls(self, name: str, role: Role = Role.MASTER, **how: Any) -> Tls:
        """Of a fresh identity. `how` as for `make_identity`; `is_foreign`: another authority of
        the same name signed it, and it believes ours all the same."""
        authority = self.authority
        if how.pop("is_foreign", False):
            authority = Authority.new("lab", self.now_ns)
            how["believed_pem"] = self.authority.certificate_pem
        directory = self.root / f"{role.value}-{name}"
        make_identity(directory, authority, role, name, self.now_ns, **how)
        return Tls(directory)
