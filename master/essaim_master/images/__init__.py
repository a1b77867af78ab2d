"""Images as their registries know them: names, digests, platforms, credentials."""
