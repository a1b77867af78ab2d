"""A tiny web image, made on the spot: no registry can be reached from a lab.

One static busybox, its applets as links, and httpd serving the container's own hostname.
"""

import io
import tarfile
from pathlib import Path
from urllib.parse import quote

from essaim_cli.lab.errors import LabError
from essaim_cli.lab.probes import http_request

WEB_IMAGE = "essaim/web:1"
IMPORT_TIMEOUT_S = 30.0
BUSYBOX = Path("/bin/busybox")

_APPLETS = (
    "cat date df echo env expr false free grep head hostname httpd id ifconfig ip kill ls mkdir "
    "mount nc netstat nslookup ping ps rm sed seq sh sleep stat tail test timeout top touch tr "
    "true uname vi wget which"
)

_START = """#!/bin/sh
# Serves one page: this container's hostname. PORT is 80 unless the environment says otherwise.
mkdir -p /tmp/www
hostname > /tmp/www/index.html
# The first process of a container is not ended by signals that it does not handle, and httpd
# handles none: without this, each stop would take the whole grace period.
trap 'kill "$server"; exit 0' TERM INT
httpd -f -p "${PORT:-80}" -h /tmp/www &
server=$!
wait "$server"
"""


def web_image_tar(busybox: bytes) -> bytes:
    """The root file system of the image as a tar archive. Pure: same input, same bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for directory in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            entry = tarfile.TarInfo(directory)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if directory == "tmp" else 0o755
            archive.addfile(entry)
        _add_file(archive, "bin/busybox", busybox, 0o755)
        _add_file(archive, "bin/serve-hostname", _START.encode(), 0o755)
        _add_file(archive, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", 0o644)
        _add_file(archive, "etc/group", b"root:x:0:\n", 0o644)
        for applet in _APPLETS.split():
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type = tarfile.SYMTYPE
            link.linkname = "busybox"
            archive.addfile(link)
    return out.getvalue()


async def import_web_image(engine_socket: Path, archive: bytes) -> None:
    """Load the image into one engine, as `docker import` does (Engine API, /images/create)."""
    name, _, tag = WEB_IMAGE.partition(":")
    changes = "".join(
        f"&changes={quote(change)}" for change in ('CMD ["/bin/serve-hostname"]', "ENV PATH=/bin")
    )
    answer = await http_request(
        engine_socket,
        f"/images/create?fromSrc=-&repo={quote(name, safe='')}&tag={tag}{changes}",
        method="POST",
        body=archive,
        content_type="application/x-tar",
        timeout_s=IMPORT_TIMEOUT_S,
    )
    # The engine reports a failed import inside a successful answer.
    if answer is None or answer[0] != 200 or b'"error"' in answer[1]:
        reason = "no answer" if answer is None else answer[1].decode(errors="replace").strip()
        raise LabError(f"the engine at {engine_socket} refused the image {WEB_IMAGE}: {reason}")


def read_busybox() -> bytes:
    try:
        return BUSYBOX.read_bytes()
    except OSError as failure:
        raise LabError(
            f"no {BUSYBOX} ({failure.strerror}): run `make up`, which installs busybox-static"
        ) from failure


def _add_file(archive: tarfile.TarFile, path: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(content)
    entry.mode = mode
    archive.addfile(entry, io.BytesIO(content))
