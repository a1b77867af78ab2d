"""Names of images taken apart, and what registries and clients write."""

import base64
import json

import pytest

from essaim_master.images.answers import (
    NO_CREDENTIALS,
    Challenge,
    Credentials,
    decode_credentials,
    parse_challenge,
    parse_credentials,
    parse_manifest,
)
from essaim_master.images.reference import ImageReference, split_reference
from essaim_shared.errors import InvalidRequest

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("image", "domain", "repository", "tag", "digest"),
    [
        ("busybox", "docker.io", "library/busybox", "latest", ""),
        ("busybox:1.36", "docker.io", "library/busybox", "1.36", ""),
        ("team/app", "docker.io", "team/app", "latest", ""),
        ("docker.io/library/busybox:1", "docker.io", "library/busybox", "1", ""),
        ("index.docker.io/busybox", "docker.io", "library/busybox", "latest", ""),
        ("localhost/app", "localhost", "app", "latest", ""),
        ("host:5000/app:2", "host:5000", "app", "2", ""),
        ("r.example.org/a/b/c:2", "r.example.org", "a/b/c", "2", ""),
        ("[::1]:5000/app", "[::1]:5000", "app", "latest", ""),
        (f"r.example.org/app:2@{DIGEST}", "r.example.org", "app", "2", DIGEST),
        (f"app@{DIGEST}", "docker.io", "library/app", "", DIGEST),
    ],
)
def test_a_name_says_where_to_ask_for_what(image, domain, repository, tag, digest) -> None:
    found = split_reference(image)
    assert found == ImageReference(domain, repository, tag, digest)
    assert found.version == (digest or tag)


def test_docker_hub_is_reached_at_another_host_than_its_name() -> None:
    assert split_reference("busybox").host == "registry-1.docker.io"
    assert split_reference("r.example.org/busybox").host == "r.example.org"


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        ("", None),
        ("Basic", Challenge("basic", {})),
        ('Basic realm="a \\"b\\" c"', Challenge("basic", {"realm": 'a "b" c'})),
        (
            'Bearer realm="https://a/t",service=reg,scope="repository:a/b:pull,push"',
            Challenge(
                "bearer",
                {"realm": "https://a/t", "service": "reg", "scope": "repository:a/b:pull,push"},
            ),
        ),
        ("bEARER ,,=, realm", Challenge("bearer", {})),
    ],
)
def test_challenges_are_read_as_the_rfc_writes_them(header, challenge) -> None:
    assert parse_challenge(header) == challenge


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def test_credentials_come_with_and_without_padding() -> None:
    text = '{"username":"ä?>","password":"p"}'
    for header in (encoded(text), encoded(text).rstrip("=")):
        assert parse_credentials(decode_credentials(header)).username == "ä?>"


@pytest.mark.parametrize("header", [*NO_CREDENTIALS, encoded('{"username":"","auth":""}')])
def test_no_credentials_are_none(header) -> None:
    assert decode_credentials(header) == b""


@pytest.mark.parametrize(
    "header",
    [
        "!",
        "YQ",
        encoded("[]"),
        encoded('{"username": 5, "password": "tell-nobody"}'),
        base64.urlsafe_b64encode(b'{"username": "\xff tell-nobody"}').decode(),
        encoded('{"a":' * 5000),
        encoded('{"username":"' + "a" * 20_000 + '"}'),
        "ä",
    ],
)
def test_what_is_no_auth_config_is_refused_and_never_quoted(header) -> None:
    with pytest.raises(InvalidRequest, match="X-Registry-Auth") as refused:
        decode_credentials(header)
    error: BaseException | None = refused.value
    while error is not None:
        assert "tell-nobody" not in str(error)
        error = error.__cause__


def test_credentials_do_not_show_themselves() -> None:
    credentials = Credentials(username="alice", password="tell-nobody")
    assert "tell-nobody" not in f"{credentials!r} {credentials}"


def test_attestations_are_no_platforms_and_each_platform_counts_once() -> None:
    def entry(architecture: object, system: object, **more: object) -> dict[str, object]:
        return {"platform": {"architecture": architecture, "os": system, **more}}

    manifest = {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            entry("arm", "linux", variant="v6"),
            entry("arm", "linux", variant="v7"),
            entry("unknown", "unknown"),
            entry("amd64", "linux"),
            entry(5, None),
            {"platform": "linux"},
            "nothing",
        ],
    }
    found = parse_manifest(json.dumps(manifest).encode(), "", "")
    assert [(one.architecture, one.os) for one in found.platforms] == [
        ("arm", "linux"),
        ("amd64", "linux"),
    ]
