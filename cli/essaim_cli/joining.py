"""A machine's conversation with a master that it does not know yet."""

import asyncio
import ssl
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import msgspec

from essaim_cli.errors import ApiError, CommandFailed
from essaim_shared.errors import EssaimError, Unavailable
from essaim_shared.http_call import Answer, call, reason_of
from essaim_shared.trust.bus_keys import new_seed, public_key_of
from essaim_shared.trust.certificates import (
    SignedRequest,
    authority_digest,
    facts_of,
    new_request,
    split_bundle,
)
from essaim_shared.trust.identity import About, Identity
from essaim_shared.trust.joining import (
    AUTHORITY_TARGET,
    JOIN_TARGET,
    JoinAnswer,
    JoinRequest,
    RoleRequest,
)
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tokens import JoinToken
from essaim_shared.trust_objects import NodeIdentity
from essaim_shared.undecodable import UNDECODABLE

LOOK_TIMEOUT_S: Final = 10.0
JOIN_TIMEOUT_S: Final = 30.0
"""The bus servers are told before it is answered."""
DIGEST_SHOWN_CHARS: Final = 12


class Joined(msgspec.Struct, frozen=True):
    """Its repr shows no key."""

    answer: JoinAnswer
    keys: dict[Role, SignedRequest]
    seeds: dict[Role, str]
    known: tuple[NodeIdentity, ...]
    """This machine's own identities, as the masters know them."""

    def __repr__(self) -> str:
        return f"Joined({self.answer!r})"

    def identity(self, role: Role) -> Identity:
        [issued] = [one for one in self.answer.issued if one.role is role]
        return Identity(
            about=About(
                cluster_id=self.answer.cluster_id,
                name=issued.name,
                role=role,
                masters=tuple(one.http for one in self.answer.masters),
                bus_servers=self.answer.bus_servers,
                generation=self.answer.generation,
            ),
            authorities_pem=self.answer.authorities_pem.encode(),
            own_pem=self.keys[role].key_pem + issued.certificate_pem.encode(),
            bus_seed=self.seeds[role],
        )


def join_at(
    masters: Sequence[str],
    token: JoinToken,
    *,
    roles: Sequence[Role],
    hostname: str,
    master_name: str,
    addresses: tuple[str, ...],
    now_ns: int,
) -> Joined:
    """Join at the first master that can be reached and proves that it belongs to the token's
    cluster. Raises CommandFailed, ApiError (what the master says), EssaimError."""
    keys = {role: new_request(role.value) for role in roles}
    seeds = {role: new_seed() for role in roles}
    request = JoinRequest(
        secret=token.secret,
        hostname=hostname,
        requests=tuple(
            RoleRequest(role, keys[role].request_pem.decode(), public_key_of(seeds[role]))
            for role in roles
        ),
        master_name=master_name,
        addresses=addresses if master_name else (),
    )
    answer = asyncio.run(_join(masters, token, request))
    known = tuple(
        _known(one.certificate_pem, public_key_of(seeds[one.role]), now_ns) for one in answer.issued
    )
    return Joined(answer, keys, seeds, known)


async def _join(masters: Sequence[str], token: JoinToken, request: JoinRequest) -> JoinAnswer:
    """The secret is sent once: what may have been heard is not repeated elsewhere."""
    unreached: EssaimError = Unavailable("no master is named")
    for address in masters:
        try:
            trusted = await _proved_authority(address, token)
        except Unavailable as error:
            unreached = error
            continue
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=trusted.decode())
        answer = await call(
            address,
            "POST",
            JOIN_TARGET,
            timeout_s=JOIN_TIMEOUT_S,
            body=msgspec.json.encode(request),
            tls=context,
        )
        return _checked(address, answer)
    raise unreached


async def _proved_authority(address: str, token: JoinToken) -> bytes:
    """The certificate of the authority that the token names. Nothing secret is said here: whoever
    answers is not believed yet. Raises Unavailable, CommandFailed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    answer = await call(address, "GET", AUTHORITY_TARGET, timeout_s=LOOK_TIMEOUT_S, tls=context)
    if answer.status != HTTPStatus.OK:
        raise Unavailable(f"the master at {address}: {reason_of(answer)}")
    digests = {}
    for certificate in split_bundle(answer.body):
        digests[authority_digest(certificate)] = certificate
    if token.authority_digest not in digests:
        found = ", ".join(digest[:DIGEST_SHOWN_CHARS] for digest in digests)
        raise CommandFailed(
            f"the master at {address} belongs to another authority ({found}…) than the token "
            f"({token.authority_digest[:DIGEST_SHOWN_CHARS]}…), and nothing was sent to it: is it "
            "the right cluster? If its authority was replaced, ask there for the present token "
            "(essaim cluster join-token)"
        )
    return digests[token.authority_digest]


def _checked(address: str, answer: Answer) -> JoinAnswer:
    if answer.status != HTTPStatus.OK:
        raise ApiError(answer.status, reason_of(answer))
    try:
        return msgspec.json.decode(answer.body, type=JoinAnswer)
    except UNDECODABLE as error:
        raise CommandFailed(
            f"the master at {address} has admitted this machine, and its answer is of another "
            "version: use its version of essaim here"
        ) from error


def _known(certificate_pem: str, bus_key: str, now_ns: int) -> NodeIdentity:
    facts = facts_of(certificate_pem.encode())
    return NodeIdentity(
        role=facts.subject.role,
        name=facts.subject.name,
        bus_key=bus_key,
        key_digest=facts.key_digest,
        serial=facts.serial,
        generation=1,
        issued_ns=now_ns,
        expires_ns=facts.not_after_ns,
        joined_ns=now_ns,
    )
