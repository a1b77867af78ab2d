"""Whether the holder of a certificate may use the native key-value protocol: by the same rules as
over HTTP. Pure."""

from essaim_master.http.authentication import Shown, authenticate
from essaim_master.http.authorization import check_allowed, rule_of
from essaim_master.http.errors import NotAllowed, NotAuthenticated
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.trust.tls import PeerCertificate

KEYS_PATH = "/essaim/kv/range"


def kv_refusal(
    state: ClusterState, cluster_id: str, certificate: PeerCertificate, now_ns: int
) -> str | None:
    """Why not, in one line; None: he may."""
    try:
        caller = authenticate(Shown(certificate=certificate), state, cluster_id, now_ns)
        check_allowed(caller, rule_of("GET", KEYS_PATH))
    except (NotAuthenticated, NotAllowed) as error:
        return str(error)
    return None
