"""Who asks a master, for tests of its API: users with tokens and certificates, nodes, nobody."""

from typing import Any

from essaim_master.http.protocol import Peer
from essaim_master.state.writes import Writes
from essaim_shared.trust.certificates import BACKDATED_S
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import PeerCertificate
from essaim_shared.trust.tokens import UserToken, new_user_token
from essaim_shared.trust_objects import NodeIdentity, User, UserRole, UserTokenDigest

CLUSTER_ID = "lab"
ADDRESS = "198.51.100.7:40000"
STRANGER = Peer(address=ADDRESS)
ROOT = Peer(pid=1, uid=0, gid=0)


def user_with_token(
    name: str, role: UserRole, stack: str = "", expires_ns: int = 0, **rest: Any
) -> tuple[User, UserToken]:
    token = new_user_token()
    digest = UserTokenDigest(id=token.id, digest=token.digest, created_ns=0, expires_ns=expires_ns)
    return User(name=name, role=role, stack=stack, tokens=(digest,), created_ns=0, **rest), token


def certificate(
    name: str,
    role: Role,
    made_ns: int = 1_000_000_000,
    cluster_id: str = CLUSTER_ID,
    serial: str = "a1",
) -> PeerCertificate:
    not_before_ns = made_ns - BACKDATED_S * 1_000_000_000
    return PeerCertificate(name, role.value, cluster_id, serial, not_before_ns)


def peer_of(shown: PeerCertificate) -> Peer:
    return Peer(address=ADDRESS, certificate=shown)


def identity(role: Role, name: str, serial: str = "a1") -> NodeIdentity:
    return NodeIdentity(
        role=role,
        name=name,
        bus_key="U" * 56,
        key_digest="00",
        serial=serial,
        generation=1,
        issued_ns=0,
        expires_ns=2**62,
        joined_ns=0,
    )


async def with_user(world: Any, name: str, role: UserRole, stack: str = "") -> "Client":
    """A user of the world's state, and how he asks it."""
    user, token = user_with_token(name, role, stack)

    def fill(writes: Writes) -> None:
        writes.put(user)

    await world.write(fill)
    return Client(world, token)


class Client:
    """Asks a world as one user, with his token."""

    def __init__(self, world: Any, token: UserToken) -> None:
        self._world = world
        self._headers = {
            "Authorization": f"Bearer {token.text}",
            "Content-Type": "application/json",
        }

    async def call(self, method: str, url: str, body: Any = b"") -> Any:
        return await self._world.call(method, url, body, headers=self._headers, peer=STRANGER)

    async def get(self, url: str) -> Any:
        return await self.call("GET", url)

    async def post(self, url: str, body: Any = b"") -> Any:
        return await self.call("POST", url, body)
