"""The images of services: a tag becomes a digest, and credentials are kept sealed.

Docker's own client asks `/distribution` itself before it creates a service, and sends what it
found; it does not say when it was told not to (`--no-resolve-image`). So it is taken at its word.
Its versions 29.0 to 29.7 forget to ask on `update --image`, and are helped there. Everybody else
is served here: docker-py, Ansible, and our own command line, which says `resolveImage=never`.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import Api, json_response
from essaim_master.http.image_name import familiar_image
from essaim_master.http.validation.container import is_image
from essaim_master.images.answers import Credentials, decode_credentials, parse_credentials
from essaim_master.images.errors import RegistryError
from essaim_master.images.reference import is_pinned, split_reference, without_digest
from essaim_master.state.service_changes import swap_credentials
from essaim_master.state.writes import Writes
from essaim_shared.errors import InvalidRequest, NotSupported
from essaim_shared.ids import ServiceId
from essaim_shared.objects import RegistryCredentials
from essaim_shared.sealing import SealError
from essaim_shared.spec import Placement, Platform, ServiceSpec

AUTH_HEADER = "X-Registry-Auth"

Resolve = Literal["changed", "always", "never"]
"""When a tag is looked up: if it is not what the service has, in any case, or not."""

DOCKER_CLIENT = re.compile(r"Docker-Client/(\d{1,4})?")
FORGETFUL_DOCKER_CLIENT = 29
"""Major version of the docker client that does not look up a changed image."""


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """What a request says about images beside its spec."""

    auth: bytes
    """The AuthConfig; empty when there is none."""
    auth_from_previous: bool
    resolve: Resolve
    leaves_registry: bool = False
    """The service's credentials are not for the registry of its new image."""

    def of_change(self, present: ServiceSpec, spec: ServiceSpec) -> "ImageRequest":
        """As a change of a service from one spec to another. An image of another registry is
        not asked for with the credentials of the one before (as Swarm does): they are a secret
        between the user and that one."""
        return replace(self, leaves_registry=_registry_of(present) != _registry_of(spec))


def image_request(request: Request, is_new: bool) -> ImageRequest:
    """Raises InvalidRequest, before anything is asked or written."""
    auth_from = request.query_params.get("registryAuthFrom", "")
    if auth_from not in ("", "spec", "previous-spec"):
        raise InvalidRequest(f"unsupported registryAuthFrom value: {auth_from}")
    asked = request.query_params.get("resolveImage", "")
    if asked and asked not in get_args(Resolve):
        raise InvalidRequest(
            f"invalid resolveImage '{asked}': it is {', '.join(get_args(Resolve))}"
        )
    resolve: Resolve = "always" if asked == "always" else "changed"
    if asked == "never" or (not asked and _asks_by_itself(request, is_new)):
        resolve = "never"
    return ImageRequest(
        auth=decode_credentials(request.headers.get(AUTH_HEADER, "")),
        auth_from_previous=auth_from == "previous-spec"
        or request.query_params.get("rollback", "") == "previous",
        resolve=resolve,
    )


class ServiceImages:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._images = api.images

    async def pinned(
        self,
        asked: ImageRequest,
        spec: ServiceSpec,
        present: ServiceSpec | None = None,
        service_id: ServiceId | None = None,
    ) -> tuple[ServiceSpec, list[str]]:
        """The spec with its image's digest and platforms, and warnings where that failed.

        `present` and `service_id` are those of the service that is updated. Never raises for a
        registry: a cluster must not need one.
        """
        resolver = self._images.resolver
        if resolver is None or not is_image(spec.task.container.image):
            return spec, []
        image = familiar_image(spec.task.container.image)
        before = present.task.container.image if present is not None else None
        is_unchanged = image == before and asked.resolve != "always"
        if asked.resolve == "never" or is_pinned(image) or is_unchanged:
            return spec, []
        if not resolver.is_asked(image):
            return spec, []
        try:
            credentials = self._credentials(asked, service_id)
            found = await resolver.distribution(image, credentials)
        except (RegistryError, SealError):
            if before is not None and without_digest(before) == image and is_pinned(before):
                return _with_image(spec, before, ()), [
                    f"image {image} could not be accessed on a registry: the service keeps {before}"
                ]
            return spec, [_digest_warning(spec.task.container.image)]
        return _with_image(spec, f"{image}@{found.descriptor.digest}", found.platforms), []

    def write_credentials(self, asked: ImageRequest, writes: Writes, service_id: ServiceId) -> None:
        """With the service itself, so that none is without the other. Raises NotSupported."""
        stored = self._api.state.registry_credentials.get(service_id)
        before = b"" if stored is None else stored.sealed
        if asked.auth:
            sealed = self._images.vault.seal_credentials(service_id, asked.auth)
            changed = RegistryCredentials(
                service_id=service_id, sealed=sealed, previous_sealed=before
            )
        elif stored is None:
            return
        elif asked.auth_from_previous:
            swap_credentials(writes, stored)
            return
        elif asked.leaves_registry:
            changed = RegistryCredentials(service_id=service_id, sealed=b"", previous_sealed=before)
        else:
            changed = RegistryCredentials(service_id=service_id, sealed=before)
        if changed != stored:
            writes.put(changed)

    def _credentials(self, asked: ImageRequest, service_id: ServiceId | None) -> Credentials:
        """Those of the request, else those that the service has. Raises SealError."""
        plain = asked.auth
        stored = self._api.state.registry_credentials.get(service_id) if service_id else None
        if not plain and stored is not None and not asked.leaves_registry:
            plain = self._images.vault.open_credentials(stored)
        return parse_credentials(plain)


class DistributionRoute:
    """`GET /distribution/NAME/json`: what the image's registry says of it."""

    def __init__(self, api: Api) -> None:
        self._images = api.images

    def routes(self) -> list[Route]:
        return [Route("/distribution/{name:path}/json", self.inspect, methods=["GET"])]

    async def inspect(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not is_image(name):
            raise InvalidRequest(f"invalid reference format: {name!r} is no image name")
        resolver = self._images.resolver
        if resolver is None or not resolver.is_asked(name):
            raise NotSupported(
                f"the masters of this cluster ask no image registry for {name}: "
                "each node pulls by itself"
            )
        auth = decode_credentials(request.headers.get(AUTH_HEADER, ""))
        found = await resolver.distribution(name, parse_credentials(auth))
        descriptor = found.descriptor
        return json_response(
            {
                "Descriptor": {
                    "mediaType": descriptor.media_type,
                    "digest": descriptor.digest,
                    "size": descriptor.size,
                },
                "Platforms": [
                    {"architecture": platform.architecture, "os": platform.os}
                    for platform in found.platforms
                ],
            }
        )


def _asks_by_itself(request: Request, is_new: bool) -> bool:
    match = DOCKER_CLIENT.match(request.headers.get("User-Agent", ""))
    if match is None:
        return False
    return is_new or int(match[1] or 0) != FORGETFUL_DOCKER_CLIENT


def _registry_of(spec: ServiceSpec) -> str:
    return split_reference(familiar_image(spec.task.container.image)).domain


def _with_image(spec: ServiceSpec, image: str, platforms: tuple[Platform, ...]) -> ServiceSpec:
    """Without platforms those that the spec names are left."""
    container = msgspec.structs.replace(spec.task.container, image=image)
    placement = spec.task.placement
    if platforms:
        placement = msgspec.structs.replace(placement or Placement(), platforms=platforms)
    task = msgspec.structs.replace(spec.task, container=container, placement=placement)
    return msgspec.structs.replace(spec, task=task)


def _digest_warning(image: str) -> str:
    """Docker's, with its line breaks (moby client/service_create.go)."""
    return (
        f"image {image} could not be accessed on a registry to record\n"
        f"its digest. Each node will access {image} independently,\n"
        "possibly leading to different nodes running different\n"
        "versions of the image.\n"
    )
