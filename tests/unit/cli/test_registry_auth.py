"""`--with-registry-auth`: the credentials of `docker login`, for the image's registry alone."""

import base64
import json
import os

import pytest

from essaim_cli.errors import CommandFailed
from essaim_cli.registry_auth import registry_headers, registry_of

HELPER = """#!/bin/sh
read registry
case "$registry" in
    kept.example) echo '{"ServerURL":"x","Username":"anna","Secret":"s3"}' ;;
    token.example) echo '{"ServerURL":"x","Username":"<token>","Secret":"t"}' ;;
    broken.example) echo 'the keychain is locked'; exit 1 ;;
    *) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def credentials_for(tmp_path):
    """What would be sent for an image, under a configuration of Docker's."""
    helper = tmp_path / "docker-credential-test"
    helper.write_text(HELPER)
    helper.chmod(0o755)

    def ask(image, configuration):
        (tmp_path / "config.json").write_text(configuration)
        path = f"{tmp_path}:{os.environ['PATH']}"
        header = registry_headers(image, {"DOCKER_CONFIG": str(tmp_path), "PATH": path})
        return json.loads(base64.urlsafe_b64decode(header["X-Registry-Auth"]))

    return ask


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("nginx", "docker.io"),
        ("library/nginx:1", "docker.io"),
        ("registry.example/a/b", "registry.example"),
        ("localhost/a", "localhost"),
        ("h1:5000/a@sha256:0", "h1:5000"),
    ],
)
def test_the_registry_of_an_image(image, registry):
    assert registry_of(image) == registry


AUTHS = json.dumps(
    {
        "auths": {
            "https://index.docker.io/v1/": {"auth": encoded("hub:pw")},
            "h1:5000": {"auth": encoded("anna:with:colon")},
            "https://old.example/v1/": {"auth": encoded("old:pw")},
            "id.example": {"identitytoken": "t"},
            "bad.example": {"auth": "***"},
        }
    }
)


@pytest.mark.parametrize(
    ("image", "user", "password"),
    [
        ("nginx", "hub", "pw"),
        ("h1:5000/a:1", "anna", "with:colon"),
        ("old.example/a", "old", "pw"),
    ],
)
def test_stored_logins(credentials_for, image, user, password):
    found = credentials_for(image, AUTHS)
    assert (found["username"], found["password"]) == (user, password)


def test_an_identity_token_and_a_registry_without_a_login(credentials_for):
    assert credentials_for("id.example/a", AUTHS)["identitytoken"] == "t"
    assert credentials_for("other.example/a", AUTHS) == {}


def test_a_helper_is_asked_for_its_registry(credentials_for):
    store = json.dumps({"credsStore": "test"})
    assert credentials_for("kept.example/a", store)["password"] == "s3"
    assert credentials_for("token.example/a", store)["identitytoken"] == "t"
    assert credentials_for("none.example/a", store) == {}


@pytest.mark.parametrize(
    ("image", "configuration", "said"),
    [
        ("bad.example/a", AUTHS, "docker login again"),
        ("a", "{", "cannot read the registry credentials"),
        ("broken.example/a", '{"credsStore": "test"}', "the keychain is locked"),
        ("a", '{"credsStore": "absent"}', "cannot be asked"),
    ],
)
def test_what_is_broken_is_told_and_nothing_is_sent(credentials_for, image, configuration, said):
    with pytest.raises(CommandFailed, match=said):
        credentials_for(image, configuration)
