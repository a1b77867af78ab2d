"""A client of the engine that keeps its connection.

docker's own adapter (7.x) keeps a pool of connections for each *URL*, up to 25 of them: a call
that names a container always opens a new connection, which costs a third of a call's time, and an
agent's sixteen threads end up with four hundred open sockets.
"""

from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests.exceptions
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnectionPool

SCHEME = "http+docker://"
"""Of the URLs that docker's client makes for a unix socket."""
ENGINE_URL = SCHEME + "engine"

NEWEST_VERSION = "1.48"
"""Of the API, that is spoken. docker's own default is older and only a default: what we ask for in
a container's body (mounts of images, parts of volumes) is newer, and of the answers nothing that
we read has changed up to here."""


class _OneEngineAdapter(UnixHTTPAdapter):
    """All URLs of a client lead to one engine."""

    def get_connection(self, url: Any, proxies: Any = None) -> UnixHTTPConnectionPool:
        return super().get_connection(ENGINE_URL, proxies)


def new_client(socket_path: Path, version: str, timeout_s: int) -> docker.APIClient:
    """For one thread. `version` is the API's, or "auto": the engine is asked. Raises what docker
    raises."""
    base_url = f"unix://{socket_path}"
    client = docker.APIClient(base_url, version=version, timeout=timeout_s)
    client.get_adapter(ENGINE_URL).close()  # it may have a connection, over which it asked
    client.mount(SCHEME, _OneEngineAdapter(f"http+{base_url}", timeout=timeout_s))
    # Neither proxies nor netrc matter on a unix socket, and looking for them costs a
    # millisecond per call.
    client.trust_env = False
    return client


def update_container(client: docker.APIClient, container_id: str, body: dict[str, Any]) -> None:
    """Change the limits of a container. Docker's own method of this name knows neither NanoCpus
    nor PidsLimit. Raises what docker raises."""
    url = f"{client.base_url}/v{client.api_version}/containers/{container_id}/update"
    answer = client.post(url, json=body, timeout=client.timeout)
    try:
        answer.raise_for_status()
    except requests.exceptions.HTTPError as error:
        # Raises: the name of docker's function says less than it does.
        docker.errors.create_api_error_from_http_exception(error)
