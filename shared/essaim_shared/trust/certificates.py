"""The cluster's certificates: who signs them, and what they say.

One authority for each cluster (ECDSA on P-256). A certificate names its holder in three fields, as
Swarm's do: O is the cluster, OU the role, CN the name: a node's id, a master's name, a user's. It
proves who somebody is; what he may do stands in the replicated state, so that it can be taken away
without waiting for a certificate to end.

Servers are known by their role: every master's certificate holds the DNS name `essaim-master`
beside its addresses, and who connects to one asks for that name. So a master can move to another
address, and an agent that took its address is still none.
"""

import datetime
import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from essaim_shared.errors import InvalidRequest
from essaim_shared.trust.roles import Role, Subject

DAY_S: Final = 86_400
AUTHORITY_LIFETIME_S: Final = 20 * 365 * DAY_S
CERTIFICATE_LIFETIME_S: Final = 90 * DAY_S
"""Of a node's or master's, which renews its own at a random 50 to 80 percent of it."""
BACKDATED_S: Final = 3600
"""A certificate holds from an hour before it was made: clocks differ."""
REQUEST_BYTES_MAX: Final = 8192
UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for bytes that are not what they should be."""
NAME_CHARS_MAX: Final = 64
"""RFC 5280, appendix A.1 (ub-common-name)."""


class CertificateFacts(msgspec.Struct, frozen=True):
    """What a certificate says, without a word on whether it is to be believed."""

    subject: Subject
    serial: str
    """Lower case hexadecimal, without leading zeros."""
    not_before_ns: int
    not_after_ns: int
    key_digest: str
    """SHA-256 of the holder's public key (its SubjectPublicKeyInfo), hexadecimal."""
    authority_digest: str
    """`digest_of_key` of the key identifier of who signed; tells one authority from the next."""


class SignedRequest(msgspec.Struct, frozen=True):
    """A fresh key and the request for a certificate. Its repr shows no key."""

    key_pem: bytes
    request_pem: bytes

    def __repr__(self) -> str:
        return "SignedRequest(…)"


def new_request(name: str) -> SignedRequest:
    """Make a key, which never leaves its machine, and ask for a certificate for it. Whose it will
    be is decided by who signs."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:NAME_CHARS_MAX])]))
        .sign(key, hashes.SHA256())
    )
    return SignedRequest(_key_pem(key), request.public_bytes(serialization.Encoding.PEM))


def request_key_digest(request_pem: bytes) -> str:
    """Of the key that asks. Raises InvalidRequest for what is no request of its own key."""
    return _key_digest(_checked_request(request_pem).public_key())


class Authority:
    """Signs certificates. Holds the cluster's most precious key; its repr shows nothing."""

    def __init__(self, certificate_pem: bytes, key_pem: bytes) -> None:
        """Raises InvalidRequest when they are no certificate, no key, or no pair."""
        self.certificate_pem = certificate_pem
        try:
            self._certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = serialization.load_pem_private_key(key_pem, password=None)
        except ValueError as error:
            raise InvalidRequest("the cluster's authority cannot be read: it is damaged") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidRequest("the cluster's authority has another kind of key than ECDSA")
        if _key_digest(key.public_key()) != _key_digest(self._certificate.public_key()):
            raise InvalidRequest("the cluster's authority has a key that is not its own")
        self._key = key

    @classmethod
    def new(
        cls, cluster_id: str, now_ns: int, lifetime_s: int = AUTHORITY_LIFETIME_S
    ) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        name = _authority_name(cluster_id)
        builder = _builder(name, name, key.public_key(), now_ns, lifetime_s)
        certificate = _as_authority(builder, key.public_key()).sign(key, hashes.SHA256())
        return cls(_pem(certificate), _key_pem(key))

    def __repr__(self) -> str:
        return f"Authority(digest={authority_digest(self.certificate_pem)!r})"

    @property
    def key_pem(self) -> bytes:
        """To be sealed before it goes anywhere."""
        return _key_pem(self._key)

    def issue(
        self,
        request_pem: bytes,
        subject: Subject,
        now_ns: int,
        addresses: Iterable[str] = (),
        lifetime_s: int = CERTIFICATE_LIFETIME_S,
    ) -> bytes:
        """A certificate (PEM) for the key that asks. Only the key is taken from the request.

        `addresses`: IP addresses and host names at which a server is reached. Raises
        InvalidRequest.
        """
        public_key = _checked_request(request_pem).public_key()
        if not isinstance(public_key, ec.EllipticCurvePublicKey):
            raise InvalidRequest("the request is for another kind of key than ECDSA")
        name = _subject_name(subject)
        builder = _builder(name, self._certificate.subject, public_key, now_ns, lifetime_s)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        names: list[x509.GeneralName] = []
        if subject.role is Role.MASTER:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
            names.append(x509.DNSName(Role.MASTER.value))
            names += [_general_name(address) for address in addresses]
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(self._key_identifier(), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return _pem(builder.sign(self._key, hashes.SHA256()))

    def cross_sign(self, other_pem: bytes, now_ns: int) -> bytes:
        """Another authority's key, vouched for by this one: whoever trusts only this one follows
        it from there to what the other signed."""
        other = x509.load_pem_x509_certificate(other_pem)
        public_key = other.public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        builder = _builder(
            other.subject, self._certificate.subject, public_key, now_ns, AUTHORITY_LIFETIME_S
        )
        signed = (
            _as_authority(builder, public_key)
            .add_extension(self._key_identifier(), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _pem(signed)

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())


def facts_of(certificate_pem: bytes) -> CertificateFacts:
    """Of the first certificate in the text. Raises InvalidRequest."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        subject = Subject(
            name=_field(certificate.subject, NameOID.COMMON_NAME),
            role=Role(_field(certificate.subject, NameOID.ORGANIZATIONAL_UNIT_NAME)),
            cluster_id=_field(certificate.subject, NameOID.ORGANIZATION_NAME),
        )
        identifier = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        key_digest = _key_digest(certificate.public_key())
    except (*UNREADABLE, x509.ExtensionNotFound) as error:
        raise InvalidRequest("this is no certificate of a cluster of Essaim") from error
    return CertificateFacts(
        subject=subject,
        serial=f"{certificate.serial_number:x}",
        not_before_ns=_ns(certificate.not_valid_before_utc),
        not_after_ns=_ns(certificate.not_valid_after_utc),
        key_digest=key_digest,
        authority_digest=_digest_text(identifier.value.key_identifier or b""),
    )


def addresses_of(certificate_pem: bytes) -> tuple[str, ...]:
    """IP addresses and host names of a master's certificate, beside the name of its role. Raises
    InvalidRequest."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except UNREADABLE as error:
        raise InvalidRequest("this is no certificate") from error
    except x509.ExtensionNotFound:
        return ()
    hosts = [name for name in names.get_values_for_type(x509.DNSName) if name != Role.MASTER.value]
    return (*(str(one) for one in names.get_values_for_type(x509.IPAddress)), *hosts)


def authority_digest(certificate_pem: bytes) -> str:
    """SHA-256 of an authority's certificate (DER), as it stands in join tokens. Raises
    InvalidRequest."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except UNREADABLE as error:
        raise InvalidRequest("this is no certificate") from error
    return certificate.fingerprint(hashes.SHA256()).hex()


def issuer_digest(certificate_pem: bytes) -> str:
    """What `CertificateFacts.authority_digest` is in certificates that this authority signed."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    identifier = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    return _digest_text(identifier.digest)


def issuer_of(certificate_pem: bytes) -> tuple[bytes, bytes]:
    """What certificates that this authority signed say of it: its name, and its public key (DER
    of the subject and of the SubjectPublicKeyInfo)."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    public_key = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return certificate.subject.public_bytes(), public_key


def split_bundle(bundle_pem: bytes) -> tuple[bytes, ...]:
    """The certificates of a PEM text, each by itself. Raises InvalidRequest."""
    try:
        return tuple(_pem(one) for one in x509.load_pem_x509_certificates(bundle_pem))
    except UNREADABLE as error:
        raise InvalidRequest("this is no list of certificates") from error


def is_signed_by(certificate_pem: bytes, authorities: Sequence[bytes]) -> bool:
    """Whether one of these authorities (PEM) signed it; its dates are not looked at."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    for authority_pem in authorities:
        try:
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority_pem))
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def _checked_request(request_pem: bytes) -> x509.CertificateSigningRequest:
    if len(request_pem) > REQUEST_BYTES_MAX:
        raise InvalidRequest(f"the certificate request is over {REQUEST_BYTES_MAX} bytes")
    try:
        request = x509.load_pem_x509_csr(request_pem)
        request.public_key()
        is_valid = request.is_signature_valid
    except UNREADABLE as error:
        raise InvalidRequest("this is no certificate request (PKCS #10, PEM)") from error
    if not is_valid:
        raise InvalidRequest("the certificate request is not signed with its own key")
    return request


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now_ns: int,
    lifetime_s: int,
) -> x509.CertificateBuilder:
    now = datetime.datetime.fromtimestamp(now_ns // 1_000_000_000, datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(seconds=BACKDATED_S))
        .not_valid_after(now + datetime.timedelta(seconds=lifetime_s))
    )


def _as_authority(
    builder: x509.CertificateBuilder, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
    )


def _authority_name(cluster_id: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_id[:NAME_CHARS_MAX]),
            x509.NameAttribute(NameOID.COMMON_NAME, "essaim-authority"),
        ]
    )


def _subject_name(subject: Subject) -> x509.Name:
    for text in (subject.name, subject.cluster_id):
        if not 0 < len(text) <= NAME_CHARS_MAX:
            raise InvalidRequest(
                f"{text[:80]!r} does not fit a certificate: 1 to {NAME_CHARS_MAX} characters do"
            )
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, subject.cluster_id),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, subject.role.value),
            x509.NameAttribute(NameOID.COMMON_NAME, subject.name),
        ]
    )


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        pass
    try:
        return x509.DNSName(address)
    except ValueError as error:
        raise InvalidRequest(f"{address[:80]!r} is neither an address nor a host name") from error


def _field(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    found = name.get_attributes_for_oid(oid)
    if len(found) != 1:
        raise ValueError(f"{len(found)} of {oid.dotted_string}")
    return str(found[0].value)


def _key_digest(public_key: object) -> str:
    spki = public_key.public_bytes(  # type: ignore[attr-defined]  # every kind has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


def _digest_text(identifier: bytes) -> str:
    return identifier.hex()


def _ns(moment: datetime.datetime) -> int:
    return int(moment.timestamp()) * 1_000_000_000


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
