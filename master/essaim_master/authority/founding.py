"""What `cluster init` left in the identity directory: written into the state by the first leader,
and deleted on each master once the state holds it.

The file has the authority's key in the clear, which nothing else on a disk has.
"""

import logging
from pathlib import Path

from essaim_master.authority.admission import JoinSecretTexts
from essaim_master.authority.vault import AuthorityVault
from essaim_master.control.founding import FirstTrust
from essaim_shared.errors import ConfigError
from essaim_shared.trust.founding import FOUNDING_FILE, read_founding
from essaim_shared.trust_objects import TrustAnchors

_log = logging.getLogger(__name__)


class FoundingFile:
    """Of one master."""

    def __init__(self, identity_dir: Path, vault: AuthorityVault) -> None:
        self._directory = identity_dir
        self._vault = vault

    def sealed(self) -> FirstTrust | None:
        """What is to be written into the state; None where nothing was left, or not for this
        cluster. A damaged file founds nothing: it is told in the log."""
        try:
            founding = read_founding(self._directory)
        except ConfigError as error:
            _log.error("the cluster's authority cannot be founded: %s", error)
            return None
        if founding is None:
            return None
        sealed_key = self._vault.seal_authority(founding.authority_pem, founding.authority_key_pem)
        secrets = JoinSecretTexts(founding.worker_secret, founding.master_secret)
        return FirstTrust(
            anchors=TrustAnchors(
                believed=(founding.authority_pem,),
                signing=founding.authority_pem,
                sealed_key=sealed_key,
            ),
            secrets=self._vault.seal_secrets(secrets),
            identities=founding.identities,
            users=founding.users,
        )

    def delete(self) -> None:
        """Nothing when it is gone. Raises OSError."""
        path = self._directory / FOUNDING_FILE
        if path.exists():
            path.unlink()
            _log.info("the state holds the authority: %s is deleted", path)
