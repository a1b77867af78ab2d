"""The same files, by Docker's own clients and by ours: what they send means the same.

Docker's clients deploy to a master that answers from a script, which keeps what it was sent.
"""

import os
import re
import subprocess
from pathlib import Path

import msgspec
import pytest
from support.docker_clients import docker_commands
from support.scripted_master import Refusal, ScriptedMaster

from essaim_cli.compose.conversion import stack_of
from essaim_cli.compose.files import read_payload
from essaim_shared.spec import ServiceSpec

SAMPLES = Path(__file__).with_name("samples")
ENVIRONMENT = {"HOME": "/users/me", "FROM_CALLER": "yes", "CALLERS_TOO": "2"}
API_VERSION = "1.47"
OLD = "/usr/bin/docker"
"""Debian's, of 20.10, which knows files up to version 3.9."""
OLD_API_VERSION = "1.41"

STACKS = [
    ("shop.yml",),
    ("everything.yml",),
    ("shop.yml", "override.yml"),
    ("newer.yml",),
    ("files.yml",),
]
CASES = [
    pytest.param(client, names, id=f"{client}: {' '.join(names)}")
    for client in docker_commands()
    for names in STACKS
    if client != OLD or "newer.yml" not in names
]


class DockerEndpoint(ScriptedMaster):
    """Knows the paths with Docker's version in front of them."""

    def answer(self, route, body):
        return super().answer(re.sub(r" /v1\.\d+/", " /", route), body)


def stored(name):
    """A secret or config, as Docker's client looks for its id."""
    return {"ID": "p" * 25, "Version": {"Index": 1}, "Spec": {"Name": name, "Labels": {}}}


@pytest.fixture
def endpoint(tmp_path):
    found = {"Name": "from-outside", "Id": "f" * 25, "Scope": "swarm"}
    server = DockerEndpoint(
        tmp_path / "d.sock",
        {
            "HEAD /_ping": [None],
            "GET /_ping": ["OK"],
            "GET /info": [{"Swarm": {"ControlAvailable": True, "LocalNodeState": "active"}}],
            "GET /networks": [[]],
            "GET /networks/from-outside": [found],
            "GET /services": [[]],
            "GET /secrets": [[stored("s_password"), stored("outside")]],
            "GET /configs": [[stored("other"), stored("s_app")]],
            "POST /secrets/create": [{"ID": "p" * 25}],
            "POST /configs/create": [{"ID": "p" * 25}],
            "POST /networks/create": [{"Id": "n" * 25}],
            "POST /services/create": [{"ID": "s" * 25}],
            "GET /distribution": [Refusal(404, "no registry")],
        },
    )
    yield server
    server.stop()


def deploy(client, url, names, more):
    files = [word for name in names for word in ("-c", str(SAMPLES / name))]
    words = [client, "stack", "deploy", "--resolve-image", "never", *files, "s"]
    environment = {
        **ENVIRONMENT,
        **more,
        "PATH": os.environ["PATH"],
        "DOCKER_HOST": url,
        "DOCKER_API_VERSION": OLD_API_VERSION if client == OLD else API_VERSION,
        "DOCKER_CONFIG": "/nowhere",
    }
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def meaning(value):
    """Without what means nothing: null, zero, empty."""
    if isinstance(value, dict):
        found = {name: meaning(inner) for name, inner in value.items()}
        return {name: inner for name, inner in found.items() if inner or inner is True}
    return [meaning(one) for one in value] if isinstance(value, list | tuple) else value


def flat(value, path=""):
    """By path, so that a difference is one line."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {where: one for key, inner in pairs
                for where, one in flat(inner, f"{path}.{key}").items()}  # fmt: skip
    return {path: value}


def as_spec(body):
    """As a master reads it."""
    return msgspec.convert(body, ServiceSpec)


def as_built(body):
    return msgspec.to_builtins(as_spec(body))


def without_ids(body):
    """Docker's client looks the ids of secrets and configs up, ours leaves that to the masters."""
    container = body["TaskTemplate"]["ContainerSpec"]
    for kind in ("Secret", "Config"):
        for reference in container.get(f"{kind}s") or ():
            del reference[f"{kind}ID"]
    return body


def network_meaning(body):
    names = ("Name", "Driver", "Internal", "Attachable", "IPAM", "Labels", "Options")
    return meaning({name: body.get(name) for name in names})


@pytest.mark.parametrize(("client", "names"), CASES)
def test_docker_and_essaim_ask_for_the_same(client, names, endpoint, sample):
    more = {"TAG": "9", "DEBUG": "1"}
    deploy(client, endpoint.url, names, more)
    stack = stack_of("s", sample(*names, **more), read_payload)
    theirs = {body["Name"]: without_ids(body) for body in endpoint.bodies("POST /services/create")}
    ours = {body["Name"]: body for body in stack.services}
    assert {name: flat(meaning(as_built(ours[name]))) for name in ours} == {
        name: flat(meaning(as_built(theirs[name]))) for name in theirs
    }
    # To the letter: a stack that is deployed by one client after another keeps its tasks.
    assert {name: as_spec(ours[name]) for name in ours} == {
        name: as_spec(theirs[name]) for name in theirs
    }
    theirs = [network_meaning(body) for body in endpoint.bodies("POST /networks/create")]
    ours = [network_meaning(body) for body in stack.networks]
    assert sorted(ours, key=lambda one: one["Name"]) == sorted(theirs, key=lambda one: one["Name"])
    for kind in ("secrets", "configs"):
        theirs = [meaning(body) for body in endpoint.bodies(f"POST /{kind}/create")]
        ours = [meaning(body) for body in getattr(stack, kind)]
        assert sorted(ours, key=lambda one: one["Name"]) == sorted(
            theirs, key=lambda one: one["Name"]
        )
