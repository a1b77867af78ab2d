"""The authority's key and the join secrets: sealed in the state with the masters' data key
(record 0031), opened in the memory of a master that signs.

The library that signs is imported when something is signed for the first time.
"""

from typing import TYPE_CHECKING, Final

from essaim_master.authority.admission import JoinSecretTexts
from essaim_master.authority.rotation import Successor
from essaim_shared.errors import Unavailable
from essaim_shared.sealing import DataKey, SealError
from essaim_shared.trust_objects import JoinSecrets, TrustAnchors

if TYPE_CHECKING:
    from essaim_shared.trust.certificates import Authority

_WORKER_CONTEXT: Final = b"join secret/worker"
_MASTER_CONTEXT: Final = b"join secret/master"


class AuthorityVault:
    """One per master."""

    def __init__(self, key: DataKey) -> None:
        self._key = key
        self._opened: tuple[bytes, Authority] | None = None

    def __repr__(self) -> str:
        return "AuthorityVault(…)"

    def authority(self, anchors: TrustAnchors) -> "Authority":
        """The one that signs now. Raises Unavailable when it cannot be opened here."""
        if self._opened is None or self._opened[0] != anchors.signing:
            from essaim_shared.trust.certificates import Authority

            key_pem = self._open(anchors.sealed_key, _authority_context(anchors.signing))
            self._opened = (anchors.signing, Authority(anchors.signing, key_pem))
        return self._opened[1]

    def successor(self, anchors: TrustAnchors, cluster_id: str, now_ns: int) -> Successor:
        """A new authority, vouched for by the present one. Raises Unavailable."""
        from essaim_shared.trust.certificates import Authority

        new = Authority.new(cluster_id, now_ns)
        return Successor(
            certificate=new.certificate_pem,
            sealed_key=self.seal_authority(new.certificate_pem, new.key_pem),
            leading=self.authority(anchors).cross_sign(new.certificate_pem, now_ns),
        )

    def seal_authority(self, certificate_pem: bytes, key_pem: bytes) -> bytes:
        return self._key.seal(key_pem, _authority_context(certificate_pem))

    def seal_secrets(self, texts: JoinSecretTexts, rotated_ns: int = 0) -> JoinSecrets:
        return JoinSecrets(
            worker=self._key.seal(texts.worker.encode(), _WORKER_CONTEXT),
            master=self._key.seal(texts.master.encode(), _MASTER_CONTEXT),
            rotated_ns=rotated_ns,
        )

    def open_secrets(self, secrets: JoinSecrets) -> JoinSecretTexts:
        """Raises Unavailable."""
        return JoinSecretTexts(
            worker=self._open(secrets.worker, _WORKER_CONTEXT).decode(),
            master=self._open(secrets.master, _MASTER_CONTEXT).decode(),
        )

    def _open(self, sealed: bytes, context: bytes) -> bytes:
        try:
            return self._key.open(sealed, context)
        except SealError as error:
            raise Unavailable(
                f"this master cannot open what the cluster's authority needs: {error}"
            ) from error


def _authority_context(certificate_pem: bytes) -> bytes:
    """Bound to its certificate: the key of one authority does not open as that of another."""
    return b"cluster authority/" + certificate_pem
