"""The secrets and configs of a container: where each stands, and whose it is.

Sentences are swarmkit's (manager/controlapi/service.go, validateSecretRefsSpec and
validateConfigRefsSpec).
"""

import posixpath
from collections.abc import Iterable

from essaim_master.http.validation.words import check_no_nul, refusal
from essaim_master.state.payload_references import Reference, name_of
from essaim_shared.container_spec import ConfigReference, ContainerSpec, SecretReference
from essaim_shared.limits import SERVICE_PAYLOADS_MAX
from essaim_shared.payload_objects import PayloadKind

FILE_MODE_MAX = 0o777
"""Permission bits: a file that nobody executes as another needs no more."""
OWNER_ID_MAX = 2**32 - 2
"""The last one means "unchanged" (chown(2))."""
TARGET_CHARS_MAX = 4000
"""Below PATH_MAX (limits.h), with the directory before it."""

DIRECTORIES: dict[PayloadKind, str] = {"secret": "/run/secrets", "config": "/"}
"""Where a relative target stands."""


def check_payloads(container: ContainerSpec) -> None:
    count = len(container.secrets) + len(container.configs)
    if count > SERVICE_PAYLOADS_MAX:
        raise refusal(
            f"ContainerSpec: {count} secrets and configs are too many: "
            f"a service has at most {SERVICE_PAYLOADS_MAX}"
        )
    _check_references("secret", container.secrets)
    _check_references("config", container.configs)
    _check_apart(container.secrets, container.configs)


def _check_references(kind: PayloadKind, references: Iterable[Reference]) -> None:
    targets: dict[str, str] = {}
    for reference in references:
        name = name_of(reference)
        if not name:
            raise refusal(f"malformed {kind} reference")
        if reference.file is None:
            raise refusal(f"malformed {kind} reference, no target provided")
        target = reference.file.name
        if not target:
            raise refusal(f"malformed file {kind} reference, invalid target file name provided")
        _check_file(kind, reference)
        place = full_target(kind, target)
        if place in targets:
            raise refusal(
                f"{kind} references '{targets[place]}' and '{name}' have a conflicting target: "
                f"'{target}'"
            )
        targets[place] = name


def _check_apart(secrets: Iterable[SecretReference], configs: Iterable[ConfigReference]) -> None:
    """Docker looks at each kind alone, and one hides the other in the container."""
    places = {full_target("secret", one.file.name): one for one in secrets if one.file is not None}
    for config in configs:
        if config.file is None:
            continue
        other = places.get(full_target("config", config.file.name))
        if other is not None:
            raise refusal(
                f"secret reference '{other.secret_name}' and config reference "
                f"'{config.config_name}' have a conflicting target: '{config.file.name}'"
            )


def full_target(kind: PayloadKind, target: str) -> str:
    return posixpath.normpath(posixpath.join(DIRECTORIES[kind], target))


def _check_file(kind: PayloadKind, reference: Reference) -> None:
    file, name = reference.file, name_of(reference)
    assert file is not None
    check_no_nul(f"ContainerSpec: {kind} {name}: target", (file.name,))
    if len(file.name) > TARGET_CHARS_MAX:
        raise refusal(f"ContainerSpec: {kind} {name}: the target is too long")
    is_directory = full_target(kind, file.name) in (DIRECTORIES[kind], "/")
    if is_directory or file.name.endswith("/") or ".." in file.name.split("/"):
        raise refusal(f"ContainerSpec: {kind} {name}: the target '{file.name}' is no file name")
    for what, owner in (("uid", file.uid), ("gid", file.gid)):
        if not owner:
            continue
        is_number = owner.isascii() and owner.isdigit() and len(owner) <= len(str(OWNER_ID_MAX))
        if not is_number or int(owner) > OWNER_ID_MAX:
            raise refusal(f"ContainerSpec: {kind} {name}: invalid {what} '{owner}': it is a number")
    if not 0 <= file.mode <= FILE_MODE_MAX:
        raise refusal(
            f"ContainerSpec: {kind} {name}: invalid mode {file.mode}: it is permission bits, "
            f"at most {FILE_MODE_MAX:#o}"
        )
