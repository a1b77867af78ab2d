"""Why a registry did not tell what it was asked.

RegistryError          500
├── RegistryAway       503  nobody answers there now
├── AccessDenied       401  not without (other) credentials, or there is no such repository
└── ManifestUnknown    404  the repository has no such tag or digest
"""

from essaim_shared.errors import EssaimError


class RegistryError(EssaimError):
    """One line for the user."""


class RegistryAway(RegistryError):
    http_status = 503


class AccessDenied(RegistryError):
    http_status = 401


class ManifestUnknown(RegistryError):
    http_status = 404
