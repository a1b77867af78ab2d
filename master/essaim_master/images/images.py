"""What a master has for images: who asks registries, and who keeps credentials."""

from dataclasses import dataclass, field

from essaim_master.images.resolver import ImageResolver
from essaim_master.vault import Vault


@dataclass(frozen=True, slots=True)
class Images:
    """What the API needs for images. Without a resolver no registry is asked."""

    resolver: ImageResolver | None = None
    vault: Vault = field(default_factory=Vault)
