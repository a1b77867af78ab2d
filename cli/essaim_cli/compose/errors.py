"""What is wrong with a compose file, and where. Pure."""


class ComposeError(Exception):
    """One line: the place in the file (`services.web.ports[0]`), if it has one, and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason
