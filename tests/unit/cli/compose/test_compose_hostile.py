"""Documents that nobody would write: an error in a line comes out, or a stack, and never more."""

import string
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from essaim_cli.compose.conversion import stack_of
from essaim_cli.compose.document import read_document, write_document
from essaim_cli.compose.errors import ComposeError
from essaim_cli.compose.loading import as_document, load
from essaim_cli.compose.service_shape import FORBIDDEN, UNSUPPORTED

EXAMPLES = 150
SAMPLES = [path.read_bytes() for path in sorted(Path(__file__).with_name("samples").glob("*.yml"))]
ENVIRONMENT = {"SET": "1", "HOME": "/users/me"}

OF_FILES = """
image command entrypoint environment env_file labels hostname user working_dir read_only init tty
stop_grace_period stop_signal cap_add cap_drop sysctls ulimits dns dns_search extra_hosts
healthcheck logging ports volumes networks deploy tmpfs restart secrets configs credential_spec
oom_score_adj replicas resources limits reservations cpus memory placement constraints preferences
spread update_config parallelism delay order restart_policy mode target published protocol type
source bind volume aliases ipam config subnet external name internal driver driver_opts test
interval soft hard size <<
"""
KEYS = sorted({*OF_FILES.split(), *UNSUPPORTED, *FORBIDDEN})
WORDS = ["", "80", "8080:80", "80-81:80/udp", "./a:/b:ro", "a:/b", "1m", "64m", "0.5", "always",
         "on-failure:2", "vip", "host", "bind", "tmpfs", "true", "10.0.0.0/16", "1.1.1.1", "a=b",
         "$SET", "${SET:-x}", "${NO:?x}", "$", "x", "A=1", "node.role == worker"]  # fmt: skip

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(WORDS)
    | st.text(string.printable, max_size=12)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=12,
)
services = st.dictionaries(
    st.sampled_from(["web", "db", "a b"]),
    st.dictionaries(st.sampled_from(KEYS), values, max_size=8).map(
        lambda keys: {"image": "x", **keys}
    ),
    min_size=1,
    max_size=3,
)
sections = st.none() | st.dictionaries(st.sampled_from(KEYS), values, max_size=4)
tops = st.dictionaries(st.sampled_from(["web", "front", "a"]), sections, max_size=3)
documents = st.fixed_dictionaries(
    {"services": services}, optional={"networks": tops, "volumes": tops, "version": scalars}
)

bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def deployed(*texts):
    """As far as a deployment goes without the masters. Raises ComposeError only."""
    compose = load([read_document(text) for text in texts], "/d", ENVIRONMENT, lambda _: "A=1")
    stack_of("s", compose, lambda _: b"data")
    return write_document(as_document(compose))


@bounded
@given(documents, documents)
def test_random_documents(first, second):
    texts = [write_document(document).encode() for document in (first, second)]
    for chosen in (texts[:1], texts):
        with suppress(ComposeError):
            deployed(*chosen)


@bounded
@given(st.data())
def test_spoiled_samples(data):
    text = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(text) - 1))
        match data.draw(st.integers(0, 3)):
            case 0:
                text[place] = data.draw(st.integers(0, 255))
            case 1:
                del text[place : place + data.draw(st.integers(1, 40))]
            case 2:
                length = data.draw(st.integers(1, 40))
                text[place:place] = text[place // 2 : place // 2 + length]
            case _:
                text[place:place] = data.draw(
                    st.sampled_from(
                        [b"*a", b"&a ", b"<<: ", b"[", b"{", b"!!x ", b"${", b"\t", b"- "]
                    )
                )
        if not text:
            return
    with suppress(ComposeError):
        deployed(bytes(text))


@bounded
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_bytes(content):
    with suppress(ComposeError):
        deployed(content)
