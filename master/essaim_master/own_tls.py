"""What a master shows to prove who it is, and whom it believes."""

from pathlib import Path

from essaim_master.config import MasterConfig
from essaim_master.standby.names import base_name
from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId
from essaim_shared.trust.identity import checked_about
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import Tls


def own_tls(config: MasterConfig) -> Tls | None:
    """None without an identity directory. Raises ConfigError for one that cannot be used, or is
    somebody else's."""
    if not config.identity_dir:
        return None
    directory = Path(config.identity_dir)
    about = checked_about(directory, Role.MASTER, config.cluster_id)
    if about.name not in names_that_prove(MemberId(config.member_id)):
        raise ConfigError(
            f"identity_dir: {directory} is of master {about.name!r}, not of {config.member_id!r}"
        )
    return Tls(directory)


def names_that_prove(member_id: MemberId) -> frozenset[str]:
    """In whose certificate a member may come: its own, and what its configuration calls it if its
    present name was drawn."""
    return frozenset({member_id, base_name(member_id)})
