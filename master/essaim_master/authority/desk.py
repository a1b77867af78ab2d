"""Where processes join the cluster, renew their certificates, and where its authority and its
tokens are replaced. Any master does it: what is decided is written with a guard.

The order of a join: the token, then who asks, then the certificates are signed, then the identities
are committed, then every bus server has to know the new keys, and only then is it answered.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from essaim_master.authority.admission import (
    Admission,
    IssuedFacts,
    JoinSecretTexts,
    admission_writes,
    admit,
    token_role,
)
from essaim_master.authority.errors import NotAdmitted
from essaim_master.authority.renewals import check_renewal, confirmation_writes, renewal_writes
from essaim_master.authority.rotation import begin
from essaim_master.authority.standing import identity_of, refusal
from essaim_master.authority.throttle import (
    JOINS_BURST,
    JOINS_PER_S,
    RENEWALS_BURST,
    RENEWALS_PER_S,
    WAITING_MAX,
    WRONG_TOKEN_COST,
    WRONG_TOKEN_DELAY_S,
)
from essaim_master.authority.vault import AuthorityVault
from essaim_master.errors import TooManyRequests
from essaim_master.state.cluster import Cluster
from essaim_master.state.keys import JOIN_SECRETS_KEY, TRUST_ANCHORS_KEY
from essaim_master.state.writes import Writes
from essaim_shared.clock import Clock
from essaim_shared.errors import Conflict, Unavailable
from essaim_shared.ids import NodeId, new_id
from essaim_shared.log import fields
from essaim_shared.token_buckets import TokenBuckets
from essaim_shared.trust.joining import (
    ClusterNetworks,
    IssuedCertificate,
    JoinAnswer,
    JoinRequest,
    MasterAddress,
    RenewAnswer,
    RenewRequest,
)
from essaim_shared.trust.roles import Role, Subject
from essaim_shared.trust.tls import PeerCertificate
from essaim_shared.trust.tokens import JoinToken, new_secret
from essaim_shared.trust_objects import NodeIdentity, TrustAnchors

COMMIT_TIMEOUT_S = 5.0
BARRIER_TIMEOUT_S = 3.0
BUS_TIMEOUT_S = 5.0
"""For all bus servers to know new keys. One that is down learns them when it starts."""
ATTEMPTS_MAX = 5
"""Of a change that loses a race against another writer."""
S_NS = 1_000_000_000
CLOCKS_APART_S = 1800
"""Of masters, at most; below `certificates.BACKDATED_S`."""

_STRANGERS: Final = "strangers"
"""All of them take from one bucket: whoever asks has proved nothing, his address least of all."""

_log = logging.getLogger(__name__)


class BusUsers(Protocol):
    """Who knows the keys with which processes log in to the bus."""

    async def everywhere(self, revision: int, timeout_s: float) -> bool:
        """Return once every bus server has the users of that revision of the state; False when
        that was not so in time."""
        ...


class NoBusUsers:
    """A bus that asks nobody for a key."""

    async def everywhere(self, revision: int, timeout_s: float) -> bool:
        return True


class DeskSettings(msgspec.Struct, frozen=True, kw_only=True):
    cluster_id: str
    bus_servers: tuple[str, ...]
    networks: ClusterNetworks
    certificate_lifetime_s: int
    seal_key_file: str


class AuthorityDesk:
    """One per master that has an identity."""

    def __init__(
        self,
        cluster: Cluster,
        vault: AuthorityVault,
        settings: DeskSettings,
        clock: Clock,
        rng: random.Random,
        bus_users: BusUsers | None = None,
        note: Callable[[Writes], None] = lambda writes: None,
    ) -> None:
        """`note` adds to a change who asked for it."""
        self._note = note
        self._cluster = cluster
        self._state = cluster.state
        self._vault = vault
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._bus_users = bus_users or NoBusUsers()
        self._joins = TokenBuckets(JOINS_PER_S, JOINS_BURST)
        self._waiting = 0
        self._renewals = TokenBuckets(RENEWALS_PER_S, RENEWALS_BURST)

    @property
    def anchors(self) -> TrustAnchors:
        """Raises Unavailable before the first leader has written them."""
        anchors = self._state.trust_anchors
        if anchors is None:
            raise Unavailable(
                "the cluster has no authority yet: the first leader writes it; try again"
            )
        return anchors

    @property
    def certificate_lifetime_s(self) -> int:
        return self._settings.certificate_lifetime_s

    # Joining

    async def join(self, request: JoinRequest, joined_from: str) -> JoinAnswer:
        """Raises NotAdmitted, TooManyRequests, and what `admission.admit` raises."""
        self._let_in()
        await self._cluster.read_barrier(BARRIER_TIMEOUT_S)
        for _ in range(ATTEMPTS_MAX):
            secrets = self._secrets()
            held_for = token_role(secrets, request.secret)
            if held_for is None:
                await self._refuse_token(joined_from)
            assert held_for is not None
            answer = await self._join_once(held_for, request, joined_from)
            if answer is not None:
                return answer
        raise Conflict("the cluster's authority changes at this moment: join again")

    async def _join_once(
        self, held_for: Role, request: JoinRequest, joined_from: str
    ) -> JoinAnswer | None:
        """None when somebody else was faster with a change of the same."""
        from essaim_shared.trust.certificates import request_key_digest

        digests = {
            one.role: request_key_digest(one.request_pem.encode()) for one in request.requests
        }
        node_id = NodeId(new_id(self._rng))
        admission = admit(self._state, held_for, request, digests, node_id)
        anchors, now_ns = self.anchors, self._clock.wall_ns()
        issued: dict[Role, IssuedFacts] = {}
        certificates = []
        for one in request.requests:
            name = admission.names[one.role]
            pem, facts = self._issue(anchors, one.role, name, one.request_pem, request.addresses)
            issued[one.role] = facts
            certificates.append(IssuedCertificate(one.role, name, pem))
        writes = admission_writes(self._state, admission, request, issued, now_ns, joined_from)
        revision = await self._commit(writes)
        if revision is None:
            return None
        await self._tell_bus(revision, admission)
        names = ", ".join(f"{role.value} {name}" for role, name in admission.names.items())
        _log.info("joined %s", fields(who=names, host=request.hostname, source=joined_from))
        return await self._answer(held_for, anchors, tuple(certificates))

    async def _answer(
        self, held_for: Role, anchors: TrustAnchors, certificates: tuple[IssuedCertificate, ...]
    ) -> JoinAnswer:
        is_master = any(one.role is Role.MASTER for one in certificates)
        assert held_for is Role.MASTER or not is_master
        seal_key = ""
        if is_master:
            seal_key = await asyncio.to_thread(Path(self._settings.seal_key_file).read_text)
        return JoinAnswer(
            cluster_id=self._settings.cluster_id,
            issued=certificates,
            authorities_pem=bundle(anchors).decode(),
            masters=self._masters(),
            bus_servers=bus_servers(self._settings.bus_servers, self._masters()),
            networks=self._settings.networks,
            generation=anchors.generation,
            seal_key=seal_key,
        )

    def _let_in(self) -> None:
        wait_s = self._joins.take(_STRANGERS, self._clock.monotonic_s())
        if wait_s:
            raise TooManyRequests(
                f"too many machines ask to join at once: this master takes {JOINS_PER_S:g} "
                "a second; try again in a few seconds",
                wait_s,
            )

    async def _refuse_token(self, joined_from: str) -> None:
        """Raises NotAdmitted, after a while."""
        self._joins.take(_STRANGERS, self._clock.monotonic_s(), WRONG_TOKEN_COST)
        _log.warning("a wrong join token was shown %s", fields(source=joined_from))
        if self._waiting < WAITING_MAX:
            self._waiting += 1
            try:
                await self._clock.sleep(WRONG_TOKEN_DELAY_S)
            finally:
                self._waiting -= 1
        raise NotAdmitted(
            "this join token is not valid: it was replaced, or mistyped; ask a master for the "
            "present one (essaim cluster join-token worker)"
        )

    async def _tell_bus(self, revision: int, admission: Admission) -> None:
        if not await self._bus_users.everywhere(revision, BUS_TIMEOUT_S):
            _log.warning(
                "not every bus server knows the new key yet %s",
                fields(node=admission.node_id, waited_s=BUS_TIMEOUT_S),
            )

    # Renewing

    async def renew(self, certificate: PeerCertificate, request: RenewRequest) -> RenewAnswer:
        """Another certificate for whoever shows a present one. Raises NotAdmitted, Conflict,
        TooManyRequests."""
        from essaim_shared.trust.certificates import request_key_digest

        self._check_renewal_rate(certificate)
        digest = request_key_digest(request.request_pem.encode())
        await self._cluster.read_barrier(BARRIER_TIMEOUT_S)
        for _ in range(ATTEMPTS_MAX):
            identity = self._known(certificate)
            check_renewal(identity, digest)
            anchors = self.anchors
            pem, facts = self._issue(
                anchors,
                identity.role,
                identity.name,
                request.request_pem,
                request.addresses,
                self._later_than(identity.issued_ns),
            )
            if (
                await self._commit(renewal_writes(self._state, identity, certificate.serial, facts))
                is not None
            ):
                _log.info(
                    "renewed a certificate %s",
                    fields(role=identity.role.value, name=identity.name, serial=facts.serial),
                )
                return RenewAnswer(
                    certificate_pem=pem,
                    authorities_pem=bundle(anchors).decode(),
                    generation=anchors.generation,
                    masters=tuple(one.http for one in self._masters()),
                )
        raise Conflict(f"the identity of {certificate.name} changes at this moment: try again")

    async def issue_to_user(self, name: str, request_pem: str, since_ns: int) -> RenewAnswer:
        """A certificate for a user, made at `since_ns` at the earliest. Raises InvalidRequest,
        Unavailable."""
        await self._cluster.read_barrier(BARRIER_TIMEOUT_S)
        anchors = self.anchors
        pem, _ = self._issue(anchors, Role.USER, name, request_pem, (), since_ns)
        return RenewAnswer(
            certificate_pem=pem,
            authorities_pem=bundle(anchors).decode(),
            generation=anchors.generation,
            masters=tuple(one.http for one in self._masters()),
        )

    async def confirm(self, certificate: PeerCertificate, generation: int) -> None:
        """The certificate is in use, and so are the anchors of that generation."""
        await self._cluster.read_barrier(BARRIER_TIMEOUT_S)
        for _ in range(ATTEMPTS_MAX):
            identity = self._known(certificate)
            writes = confirmation_writes(self._state, identity, certificate.serial, generation)
            if not writes or await self._commit(writes) is not None:
                return
        raise Conflict(f"the identity of {certificate.name} changes at this moment: try again")

    def _check_renewal_rate(self, certificate: PeerCertificate) -> None:
        who = f"{certificate.role} {certificate.name}"
        wait_s = self._renewals.take(who, self._clock.monotonic_s())
        if wait_s:
            raise TooManyRequests(
                f"{who} renews its certificate all the time: wait a while", wait_s
            )

    def _later_than(self, issued_ns: int) -> int:
        """The first second after an earlier certificate: a master whose state is behind takes a
        certificate that is later than the one that it knows (`standing`). A clock that is wrong by
        more than CLOCKS_APART_S is not followed, or the new certificate would not be valid yet."""
        most_ns = self._clock.wall_ns() + CLOCKS_APART_S * S_NS
        return min((issued_ns // S_NS + 1) * S_NS, most_ns)

    def _known(self, certificate: PeerCertificate) -> NodeIdentity:
        """Whose certificate it is, if it is worth anything by now. Raises NotAdmitted."""
        why_not = refusal(self._state, self._settings.cluster_id, certificate)
        if why_not is not None:
            raise NotAdmitted(why_not)
        identity = identity_of(self._state, certificate)
        assert identity is not None, "refusal() has looked"
        return identity

    # Replacing

    async def rotate_authority(self) -> None:
        """Begin; the leader takes the later steps (`rotation`). Raises Conflict."""
        await self._cluster.read_barrier(BARRIER_TIMEOUT_S)
        anchors = self.anchors
        successor = self._vault.successor(anchors, self._settings.cluster_id, self._clock.wall_ns())
        writes = Writes()
        writes.expect(TRUST_ANCHORS_KEY, self._state.modified(TRUST_ANCHORS_KEY))
        writes.put(begin(anchors, successor))
        if await self._commit(writes) is None:
            raise Conflict("the authority is being replaced by somebody else at this moment")
        _log.info("the authority is to be replaced %s", fields(generation=anchors.generation + 1))

    def tokens(self) -> dict[Role, JoinToken]:
        """What lets agents and masters in now. Raises Unavailable."""
        from essaim_shared.trust.certificates import authority_digest

        secrets = self._secrets()
        digest = authority_digest(self.anchors.signing)
        return {
            Role.AGENT: JoinToken(digest, secrets.worker),
            Role.MASTER: JoinToken(digest, secrets.master),
        }

    async def rotate_tokens(self, roles: frozenset[Role]) -> None:
        """Replace join secrets: the ones before let nobody in any more."""
        await self._cluster.read_barrier(BARRIER_TIMEOUT_S)
        for _ in range(ATTEMPTS_MAX):
            before = self._secrets()
            texts = JoinSecretTexts(
                worker=new_secret() if Role.AGENT in roles else before.worker,
                master=new_secret() if Role.MASTER in roles else before.master,
            )
            writes = Writes()
            writes.expect(JOIN_SECRETS_KEY, self._state.modified(JOIN_SECRETS_KEY))
            writes.put(self._vault.seal_secrets(texts, self._clock.wall_ns()))
            if await self._commit(writes) is not None:
                return
        raise Conflict("the join tokens are being replaced by somebody else at this moment")

    # All of them

    def _secrets(self) -> JoinSecretTexts:
        sealed = self._state.join_secrets
        if sealed is None:
            raise Unavailable("the cluster has no join tokens yet: try again in a second")
        return self._vault.open_secrets(sealed)

    def _issue(
        self,
        anchors: TrustAnchors,
        role: Role,
        name: str,
        request_pem: str,
        addresses: tuple[str, ...],
        since_ns: int = 0,
    ) -> tuple[str, IssuedFacts]:
        from essaim_shared.trust.certificates import CERTIFICATE_LIFETIME_S, facts_of

        now_ns = max(self._clock.wall_ns(), since_ns)
        # Nobody renews a user's for him: what is set for processes is not for those.
        is_kept = role is not Role.USER
        lifetime_s = self._settings.certificate_lifetime_s if is_kept else CERTIFICATE_LIFETIME_S
        pem = self._vault.authority(anchors).issue(
            request_pem.encode(),
            Subject(name, role, self._settings.cluster_id),
            now_ns,
            addresses,
            lifetime_s,
        )
        found = facts_of(pem)
        facts = IssuedFacts(
            key_digest=found.key_digest,
            serial=found.serial,
            issued_ns=now_ns,
            expires_ns=found.not_after_ns,
        )
        return (pem + anchors.leading).decode(), facts

    def _masters(self) -> tuple[MasterAddress, ...]:
        return tuple(
            MasterAddress(str(one.id), one.raft, one.http) for one in self._cluster.members
        )

    async def _commit(self, writes: Writes) -> int | None:
        """The revision; None when one of the compares did not hold."""
        self._note(writes)
        (transaction,) = writes.transactions()
        result = await self._cluster.commit(transaction, COMMIT_TIMEOUT_S)
        return result.revision if result.succeeded else None


def bus_servers(configured: tuple[str, ...], masters: tuple[MasterAddress, ...]) -> tuple[str, ...]:
    """This master's own list, and the hosts of masters that came later: each has a bus server, at
    the same port."""
    known = {url.partition("://")[2].rpartition(":")[0] for url in configured}
    port = configured[0].rpartition(":")[2]
    hosts = dict.fromkeys(one.http.rpartition(":")[0] for one in masters)
    return (*configured, *(f"nats://{host}:{port}" for host in hosts if host not in known))


def bundle(anchors: TrustAnchors) -> bytes:
    """What a process believes: the content of its `authorities.pem`."""
    return b"".join(anchors.believed)
