"""Why the state as it is does not allow a change.

InvalidRequest           400
├── SubnetTaken          400  a network's addresses are somebody else's
├── PortTaken            400  another service has the port
└── NetworkInUse         400  Docker's answer too
Conflict
└── PoolExhausted        409  nothing is left to choose a network from
"""

from essaim_shared.errors import Conflict, InvalidRequest


class SubnetTaken(InvalidRequest):
    pass


class PortTaken(InvalidRequest):
    pass


class NetworkInUse(InvalidRequest):
    pass


class PoolExhausted(Conflict):
    pass
