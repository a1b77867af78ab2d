"""Several compose files laid over each other."""

import pytest

from essaim_cli.compose.document import write_document
from essaim_cli.compose.errors import ComposeError
from essaim_cli.compose.loading import as_document


@pytest.fixture
def merged(compose):
    def merge(*texts):
        files = [f"services: {{web: {{image: one, {text}}}}}" for text in texts]
        return compose(*files).services["web"]

    return merge


@pytest.mark.parametrize(
    ("before", "after", "key", "both"),
    [
        ("user: a", "user: b", "user", "b"),
        ("user: a", "user: ''", "user", "a"),
        ("tty: true", "tty: false", "tty", True),
        ("user: a", "hostname: h", "user", "a"),
        ("command: a b", "command: c", "command", ["c"]),
        ("command: a b", "command: []", "command", ["a", "b"]),
        ("dns: 1.1.1.1", "dns: [2.2.2.2]", "dns", ["1.1.1.1", "2.2.2.2"]),
        ("cap_add: [A]", "cap_add: [B]", "cap_add", ["A", "B"]),
        ("environment: [A=1, B=2]", "environment: {B: 3, C: }", "environment",
         {"A": "1", "B": "3", "C": None}),
        ("labels: {a: 1}", "labels: {a: ''}", "labels", {"a": ""}),
        ("ports: ['81:80', '82:80']", "ports: ['81:90', '53:53/udp', '53:53']", "ports", [
            {"mode": "ingress", "target": 53, "published": 53, "protocol": "tcp"},
            {"mode": "ingress", "target": 53, "published": 53, "protocol": "udp"},
            {"mode": "ingress", "target": 90, "published": 81, "protocol": "tcp"},
            {"mode": "ingress", "target": 80, "published": 82, "protocol": "tcp"}]),
        ("volumes: ['/a:/x', '/b:/y']", "volumes: ['/c:/x:ro']", "volumes", [
            {"type": "bind", "source": "/c", "target": "/x", "read_only": True},
            {"type": "bind", "source": "/b", "target": "/y"}]),
        ("networks: {a: {aliases: [x], driver_opts: {k: v}}, b: }",
         "networks: {a: {aliases: [y]}, c: }", "networks",
         {"a": {"aliases": ["y"], "driver_opts": {"k": "v"}}, "b": None, "c": None}),
        ("networks: [a]", "networks: {a: {aliases: [y]}}", "networks", {"a": {"aliases": ["y"]}}),
        ("ulimits: {a: 1, b: {soft: 1, hard: 2}}", "ulimits: {b: 3}", "ulimits", {"a": 1, "b": 3}),
        ("logging: {driver: x, options: {a: 1}}", "logging: {options: {b: 2}}", "logging",
         {"driver": "x", "options": {"a": "1", "b": "2"}}),
        ("logging: {driver: x, options: {a: 1}}", "logging: {driver: y}", "logging",
         {"driver": "y"}),
        ("healthcheck: {test: a, retries: 3}", "healthcheck: {test: [CMD, b], retries: 0}",
         "healthcheck", {"test": ["CMD", "b"], "retries": 0}),
        ("deploy: {replicas: 2, labels: {a: 1}, resources: {limits: {pids: 1}}}",
         "deploy: {replicas: 0, labels: {b: 2}, resources: {limits: {memory: 1m}}}", "deploy",
         {"replicas": 0, "labels": {"a": "1", "b": "2"},
          "resources": {"limits": {"pids": 1, "memory": "1048576"}}}),
        ("deploy: {placement: {constraints: [a]}}", "deploy: {placement: {constraints: [b]}}",
         "deploy", {"placement": {"constraints": ["a", "b"]}}),
    ],
    ids=str,
)  # fmt: skip
def test_a_later_file_adds_and_replaces(merged, before, after, key, both):
    assert merged(before, after)[key] == both


def test_services_networks_and_volumes_of_both_files(compose):
    found = compose(
        "services: {a: {image: x}}\nnetworks: {n: {internal: true}}\nvolumes: {v: }",
        "services: {b: {image: y}}\nnetworks: {n: {driver: overlay}, m: }\nvolumes: {w: }",
    )
    assert list(found.services) == ["a", "b"]
    assert found.networks == {"m": {}, "n": {"driver": "overlay"}}
    assert list(found.volumes) == ["v", "w"]


def test_files_of_two_versions_do_not_mix(compose):
    with pytest.raises(ComposeError, match=r"between two composefiles : 3\.8 and 3\.13"):
        compose("version: '3.8'", "services: {}")


def test_the_whole_is_shown_as_yaml(compose):
    text = """
version: "3"
services:
  web: {ports: ["81:80"], image: "x:$TAG", stop_grace_period: 90s, command: a b}
networks: {front: }
"""
    assert write_document(as_document(compose(text, environment={"TAG": "2"}))) == (
        "version: '3.13'\n"
        "services:\n"
        "  web:\n"
        "    command:\n"
        "      - a\n"
        "      - b\n"
        "    image: x:2\n"
        "    ports:\n"
        "      - mode: ingress\n"
        "        target: 80\n"
        "        published: 81\n"
        "        protocol: tcp\n"
        "    stop_grace_period: 1m30s\n"
        "networks:\n"
        "  front: {}\n"
    )


def test_what_is_shown_means_the_same_again(compose, sample):
    once = as_document(sample("everything.yml", TAG="9"))
    again = as_document(compose(write_document(once).replace("$", "$$"), read_text=lambda _: ""))
    assert again == once


def test_variables_may_be_left_as_they_are(compose):
    text = "services: {web: {image: 'x:${TAG:-1}'}}"
    assert compose(text, is_interpolated=False).services["web"]["image"] == "x:${TAG:-1}"
