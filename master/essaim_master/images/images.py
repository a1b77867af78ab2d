"""What a master has for images: who asks registries, and who keeps credentials."""

from dataclasses import dataclass, field

from essaim_master.images.credentials import CredentialVault
from essaim_master.images.resolver import ImageResolver


@dataclass(frozen=True, slots=True)
class Images:
    """What the API needs for images. Without a resolver no registry is asked."""

    resolver: ImageResolver | None = None
    vault: CredentialVault = field(default_factory=CredentialVault)
