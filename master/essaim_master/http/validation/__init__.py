"""What a service spec must satisfy beyond its types, in Docker's sentences where it has one.

Pure. Source of texts and limits: swarmkit manager/controlapi/service.go and common.go, moby
daemon/cluster/convert and volume/mounts; what only Essaim has, is said in its own words.
`service` is where to begin; `unsupported` looks at the request before it is a spec.
"""

from essaim_master.http.validation.container import is_image
from essaim_master.http.validation.service import check_service_name, check_service_spec
from essaim_master.http.validation.unsupported import refuse_what_is_not_there_yet

__all__ = [
    "check_service_name",
    "check_service_spec",
    "is_image",
    "refuse_what_is_not_there_yet",
]
