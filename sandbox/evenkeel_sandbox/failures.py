"""What can go wrong with a sandbox; every message says what to do."""


class SandboxError(Exception):
    """The sandbox cannot do what was asked."""


class BuildError(SandboxError):
    """A binary is missing and could not be built."""


class NotReadyError(SandboxError):
    """Something did not come up in time."""


class NoSuchSandboxError(SandboxError):
    """No sandbox of that name is there."""


class ForeignRecordError(SandboxError):
    """What is on record was not written by this release."""


class UnreachableError(SandboxError):
    """The API server does not answer."""


class ApiError(SandboxError):
    """The API server refused a request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
