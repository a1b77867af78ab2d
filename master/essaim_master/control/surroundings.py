"""What the drivers of the control loops work with."""

import random
from dataclasses import dataclass, field

from essaim_master.control.rejects import Rejects
from essaim_master.state.cluster import Cluster
from essaim_master.vault import Vault
from essaim_shared.clock import Clock
from essaim_shared.subjects import Subjects
from essaim_shared.transport import Transport


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The same for all terms of one master."""

    cluster: Cluster
    transport: Transport
    subjects: Subjects
    clock: Clock
    rng: random.Random
    rejects: Rejects
    vault: Vault = field(default_factory=Vault)
