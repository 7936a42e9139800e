"""The few calls the sandbox itself makes to its API server, without a client library."""

import contextlib
import http.client
import json
import ssl
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evenkeel_sandbox.failures import ApiError, UnreachableError

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


class Api:
    """One connection to an API server, as the user of a kubeconfig that `pki` wrote."""

    def __init__(self, kubeconfig: Path) -> None:
        self._connection: http.client.HTTPSConnection | None = None
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._address = urlsplit(cluster["server"])
        self._context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._context.load_cert_chain(user["client-certificate"], user["client-key"])
        self._lock = threading.Lock()

    def __del__(self) -> None:
        self._drop()

    def get(self, path: str) -> Any:
        """Return the parsed answer."""
        return self.call("GET", path)

    def text(self, path: str) -> str:
        """Return the answer as it is."""
        return self._exchange("GET", path, None, "")[1].decode()

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """Send a request and return the parsed answer.

        Raises
        ------
        ApiError
            If the server refuses.
        UnreachableError
            If there is no answer.
        """
        data = None if body is None else json.dumps(body).encode()
        status, answer = self._exchange(method, path, data, kind)
        if status >= http.client.BAD_REQUEST:
            raise ApiError(status, _message(answer))
        return json.loads(answer) if answer else None

    def create(self, path: str, body: Any) -> Any:
        """Create an object; one of that name that is there already will do."""
        try:
            return self.call("POST", path, body)
        except ApiError as error:
            if error.status != http.client.CONFLICT:
                raise
            return None

    def apply(self, path: str, body: Any) -> Any:
        """Create or update an object, server-side."""
        return self.call("PATCH", f"{path}?fieldManager=evenkeel-sandbox&force=true", body, APPLY)

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            self._drop()

    def _exchange(self, method: str, path: str, data: bytes | None, kind: str) -> tuple[int, bytes]:
        with self._lock:
            # A kept connection may have been closed under us: that is no answer yet.
            if self._connection is not None:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    return self._once(method, path, data, kind)
                self._drop()
            try:
                return self._once(method, path, data, kind)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                raise UnreachableError(
                    f"the API server at {self._address.netloc} does not answer: {error}"
                ) from error

    def _once(self, method: str, path: str, data: bytes | None, kind: str) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                self._address.hostname or "", self._address.port, timeout=10, context=self._context
            )
        self._connection.request(method, path, body=data, headers={"Content-Type": kind})
        response = self._connection.getresponse()
        return response.status, response.read()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _message(answer: bytes) -> str:
    """Return the message of a Status object, or whatever a proxy or a panic said instead."""
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace").strip()
