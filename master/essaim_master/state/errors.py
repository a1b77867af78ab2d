"""Why the state as it is does not allow a change.

InvalidRequest           400
├── SubnetTaken          400  a network's addresses are somebody else's
├── PortTaken            400  another service has the port
├── NetworkInUse         400  Docker's answer too
├── PayloadInUse         400  the same, of a secret or config
└── UnknownPayload       400  a service names a secret or config, or data of one, that is not there
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


class PayloadInUse(InvalidRequest):
    pass


class UnknownPayload(InvalidRequest):
    """`what` is the sentence alone; Docker's clients see it with the code of the call."""

    def __init__(self, what: str) -> None:
        super().__init__(f"rpc error: code = InvalidArgument desc = {what}")


class PoolExhausted(Conflict):
    pass
