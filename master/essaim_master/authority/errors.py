"""Why somebody is not let in.

EssaimError
├── NotAdmitted      403  the token, the role or the certificate does not allow it
├── TooManyRequests  429  ask later (essaim_master.errors)
└── Conflict         409  a replayed request, a name that is taken (essaim_shared.errors)
"""

from essaim_shared.errors import EssaimError


class NotAdmitted(EssaimError):
    http_status = 403
