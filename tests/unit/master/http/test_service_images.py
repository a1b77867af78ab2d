"""Tags become digests on create and update; credentials are kept sealed, or refused."""

import pytest
from support.image_registry import auth_header

from essaim_master.images.answers import Descriptor, Distribution
from essaim_master.images.errors import AccessDenied, ManifestUnknown, RegistryAway, RegistryError
from essaim_master.images.images import Images
from essaim_master.images.resolver import ImageResolver
from essaim_master.state.keys import service_key
from essaim_master.vault import Vault
from essaim_shared.clock import SystemClock
from essaim_shared.sealing import DataKey
from essaim_shared.spec import Platform

IMAGE = "r.test/web:1"
OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
AMD64 = Platform(architecture="amd64", os="linux")
DOCKER = "Docker-Client/{} (linux)"


class Registries:
    """What each tag names; `outcome` in place of all answers."""

    def __init__(self):
        self.digest = OLD
        self.outcome = None
        self.asked = []

    def ask(self, reference, credentials, limit_s):
        self.asked.append((reference, credentials))
        if isinstance(self.outcome, RegistryError):
            raise self.outcome
        return Distribution(Descriptor("application/x", self.digest, 7), (AMD64,))


@pytest.fixture
def registries():
    return Registries()


@pytest.fixture
async def world(world_with, registries):
    resolver = ImageResolver(registries, SystemClock(), unasked=("docker.io",))
    return await world_with(Images(resolver, Vault(DataKey(bytes(32)))))


def body_of(image=IMAGE, replicas=1, name="web"):
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": image}},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


def headers_of(**more):
    names = {"auth": "X-Registry-Auth", "agent": "User-Agent"}
    return {
        "Content-Type": "application/json",
        **{names[name]: value for name, value in more.items()},
    }


async def create(world, image=IMAGE, query="", **headers):
    answer = await world.call(
        "POST", f"/services/create{query}", body_of(image), headers=headers_of(**headers)
    )
    assert answer.status == 201, answer.body
    return world.state.services[answer.json["ID"]], answer.json["Warnings"]


async def update(world, service, query="", image=None, replicas=1, **headers):
    """As clients do it: read, change, write. What is stored then, and the warnings."""
    shown = (await world.get(f"/services/{service.id}")).json
    spec = shown["Spec"]
    if image is not None:
        spec["TaskTemplate"]["ContainerSpec"]["Image"] = image
    spec["Mode"] = {"Replicated": {"Replicas": replicas}}
    answer = await world.call(
        "POST",
        f"/services/{service.id}/update?version={shown['Version']['Index']}{query}",
        spec,
        headers=headers_of(**headers),
    )
    assert answer.status == 200, answer.body
    return world.state.services[service.id], answer.json["Warnings"]


def image_of(service):
    return service.spec.task.container.image


# Digests.


async def test_a_new_service_is_pinned_to_what_its_tag_names_now(world) -> None:
    service, warnings = await create(world)
    assert image_of(service) == f"{IMAGE}@{OLD}"
    assert service.spec.task.placement.platforms == (AMD64,)
    assert warnings is None


async def test_a_digest_of_the_client_is_left_alone(world, registries) -> None:
    service, _ = await create(world, f"{IMAGE}@{NEW}")
    assert image_of(service) == f"{IMAGE}@{NEW}"
    assert registries.asked == []


@pytest.mark.parametrize(
    "outcome", [RegistryAway("away"), AccessDenied("no"), ManifestUnknown("none")]
)
async def test_a_registry_that_does_not_tell_costs_a_warning_in_dockers_words(
    world, registries, outcome
) -> None:
    registries.outcome = outcome
    service, warnings = await create(world)
    assert image_of(service) == IMAGE
    assert warnings == [
        f"image {IMAGE} could not be accessed on a registry to record\n"
        f"its digest. Each node will access {IMAGE} independently,\n"
        "possibly leading to different nodes running different\n"
        "versions of the image.\n"
    ]


async def test_a_registry_that_is_not_to_be_asked_costs_nothing(world, registries) -> None:
    service, warnings = await create(world, "busybox")
    assert (image_of(service), warnings) == ("busybox:latest", None)
    assert registries.asked == []


@pytest.mark.parametrize(
    ("query", "agent", "asks"),
    [
        ("", "docker-sdk-python/7.2.0", True),
        ("", DOCKER.format("20.10.24"), False),
        ("", DOCKER.format("29.1.0"), False),
        ("", DOCKER.format("unknown-version"), False),
        ("?resolveImage=never", "essaim", False),
        ("?resolveImage=changed", DOCKER.format("20.10.24"), True),
        ("?resolveImage=always", "essaim", True),
    ],
)
async def test_who_asks_by_itself_is_not_asked_for_on_create(
    world, registries, query, agent, asks
) -> None:
    await create(world, query=query, agent=agent)
    assert bool(registries.asked) is asks


async def test_a_scale_asks_nobody_and_restarts_nothing(world, registries) -> None:
    service, _ = await create(world)
    registries.asked.clear()
    registries.digest = NEW
    scaled, _ = await update(world, service, replicas=5)
    assert scaled.spec.task == service.spec.task
    assert registries.asked == []


async def test_the_same_tag_given_again_takes_what_it_names_now(world, registries) -> None:
    service, _ = await create(world)
    same, _ = await update(world, service, image=IMAGE)
    assert same.spec.task == service.spec.task, "nothing has moved, so nothing is restarted"
    registries.digest = NEW
    moved, _ = await update(world, service, image=IMAGE)
    assert image_of(moved) == f"{IMAGE}@{NEW}"


async def test_the_same_tag_given_again_keeps_its_digest_while_nobody_can_tell(
    world, registries
) -> None:
    service, _ = await create(world)
    registries.outcome = AccessDenied("no")
    kept, warnings = await update(world, service, image=IMAGE)
    assert kept.spec.task == service.spec.task
    assert warnings == [
        f"image {IMAGE} could not be accessed on a registry: the service keeps {IMAGE}@{OLD}"
    ]
    other, warnings = await update(world, service, image="r.test/web:2")
    assert image_of(other) == "r.test/web:2"
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("version", "asks"), [("20.10.24", False), ("28.2.2", False), ("29.3.0", True)]
)
async def test_the_docker_client_that_forgets_to_ask_on_update_is_helped(
    world, registries, version, asks
) -> None:
    service, _ = await create(world)
    registries.asked.clear()
    await update(world, service, image="r.test/web:2", agent=DOCKER.format(version))
    assert bool(registries.asked) is asks


async def test_an_unresolved_tag_is_looked_up_again_only_when_that_is_wanted(
    world, registries
) -> None:
    registries.outcome = AccessDenied("no")
    service, _ = await create(world)
    registries.outcome = None
    registries.asked.clear()
    same, _ = await update(world, service, image=IMAGE)
    assert image_of(same) == IMAGE
    assert registries.asked == []
    pinned, _ = await update(world, service, "&resolveImage=always")
    assert image_of(pinned) == f"{IMAGE}@{OLD}"


# Credentials.


def stored_bytes(world):
    return b"".join(found.value for found in world.state.store.range(b"/"))


async def test_credentials_open_the_registry_and_are_stored_sealed(
    world, registries, caplog
) -> None:
    caplog.set_level(0)
    service, warnings = await create(world, auth=auth_header("alice", "tell-nobody"))
    assert warnings is None
    (_, used) = registries.asked[0]
    assert (used.username, used.password) == ("alice", "tell-nobody")
    stored = world.state.registry_credentials[service.id]
    assert world.api.images.vault.open_credentials(stored) == (
        b'{"username": "alice", "password": "tell-nobody"}'
    )
    assert b"tell-nobody" not in stored_bytes(world)
    shown = [await world.get(path) for path in (f"/services/{service.id}", "/services", "/tasks")]
    assert all(b"tell-nobody" not in answer.body for answer in shown)
    assert "tell-nobody" not in caplog.text


async def test_an_update_without_credentials_asks_with_those_of_the_service(
    world, registries
) -> None:
    service, _ = await create(world, auth=auth_header())
    before = world.state.registry_credentials[service.id]
    await update(world, service, "&registryAuthFrom=spec", image="r.test/web:2")
    assert registries.asked[-1][1].username == "alice"
    assert world.state.registry_credentials[service.id].sealed == before.sealed


async def test_a_rollback_takes_the_credentials_of_the_spec_before(world) -> None:
    vault = world.api.images.vault
    service, _ = await create(world, auth=auth_header("first"))
    service, _ = await update(world, service, image="r.test/web:2", auth=auth_header("second"))
    for query, user in (("rollback=previous", b"first"), ("rollback=previous", b"second")):
        await update(world, service, f"&{query}")
        assert user in vault.open_credentials(world.state.registry_credentials[service.id])
    version = world.state.modified(service_key(service.id))
    answer = await world.post(f"/essaim/services/{service.id}/rollback?version={version}", {})
    assert answer.status == 200
    assert b"first" in vault.open_credentials(world.state.registry_credentials[service.id])


async def test_credentials_of_one_registry_are_not_shown_to_another(world, registries) -> None:
    vault = world.api.images.vault
    service, _ = await create(world, auth=auth_header("alice"))
    service, _ = await update(world, service, image="elsewhere.test/web:1")
    assert registries.asked[-1][1].username == ""
    assert vault.open_credentials(world.state.registry_credentials[service.id]) == b""
    # The way back is the way to the first registry.
    await update(world, service, "&rollback=previous")
    assert b"alice" in vault.open_credentials(world.state.registry_credentials[service.id])


async def test_a_removed_service_leaves_no_credentials(world) -> None:
    service, _ = await create(world, auth=auth_header())
    await world.call("DELETE", f"/services/{service.id}")
    assert not world.state.registry_credentials


async def test_a_master_without_a_key_refuses_credentials_and_changes_nothing(world_with) -> None:
    world = await world_with(Images())
    revision = world.state.revision
    answer = await world.call(
        "POST", "/services/create", body_of(), headers=headers_of(auth=auth_header())
    )
    assert answer.status == 501
    assert "set seal_key_file on all masters" in answer.message
    assert world.state.revision == revision
    assert (await world.post("/services/create", body_of())).status == 201


@pytest.mark.parametrize(
    ("query", "header", "words"),
    [
        ("", "!", "invalid X-Registry-Auth header"),
        ("?registryAuthFrom=elsewhere", "", "unsupported registryAuthFrom value: elsewhere"),
        ("?resolveImage=perhaps", "", "invalid resolveImage 'perhaps'"),
    ],
)
async def test_bad_words_about_images_change_nothing(
    world, registries, query, header, words
) -> None:
    revision = world.state.revision
    answer = await world.call(
        "POST", f"/services/create{query}", body_of(), headers=headers_of(auth=header)
    )
    assert (answer.status, world.state.revision) == (400, revision)
    assert words in answer.message
    assert registries.asked == []


# /distribution.


async def test_distribution_tells_what_the_registry_says(world) -> None:
    answer = await world.get(f"/v1.41/distribution/{IMAGE}/json")
    assert answer.json == {
        "Descriptor": {"mediaType": "application/x", "digest": OLD, "size": 7},
        "Platforms": [{"architecture": "amd64", "os": "linux"}],
    }


@pytest.mark.parametrize(
    ("name", "outcome", "status"),
    [
        (IMAGE, AccessDenied("no"), 401),
        (IMAGE, ManifestUnknown("none"), 404),
        (IMAGE, RegistryAway("away"), 503),
        (IMAGE, RegistryError("odd"), 500),
        ("UPPER", None, 400),
        ("busybox", None, 501),
    ],
)
async def test_distribution_answers_with_the_reason(
    world, registries, name, outcome, status
) -> None:
    registries.outcome = outcome
    answer = await world.get(f"/distribution/{name}/json")
    assert answer.status == status
    assert answer.message
