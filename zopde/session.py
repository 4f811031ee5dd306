"""One kept-alive connection that speaks JSON, tolerant where the world is not."""

from __future__ import annotations

import http.client
import json
import time
import weakref
from collections.abc import Mapping
from typing import Any, final
from urllib.parse import urlsplit

_PAUSE = 0.1  # seconds before the first new attempt, twice as long before each further one


class AnswerError(Exception):
    """A request without an answer, or whose answer is an error; why, in one line."""


@final
class Session:
    """A connection that is made when needed, and made anew where it breaks.

    Args:
        url: "http://host:port" or "https://...", with a path in front of all others if need be.
        timeout: Seconds for which the server may be silent.
        retries: How often a request is sent again after the connection broke.
    """

    def __init__(self, url: str, timeout: float, retries: int) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._connection = kind(parts.netloc, timeout=timeout)
        self._url, self._prefix, self._retries = url, parts.path.rstrip("/"), retries
        weakref.finalize(self, self._connection.close)

    def get(self, path: str) -> dict[str, Any]:
        """Receive a JSON object; see `post`."""
        return self._request("GET", path, None)

    def post(self, path: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Send JSON, receive a JSON object; NaN and Infinity are read as such.

        Raises:
            AnswerError: If no answer came, or one that is an error or no JSON object.
        """
        return self._request("POST", path, json.dumps(content).encode())

    def _request(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        attempt = 0
        while True:
            try:
                return self._answer(method, path, body)
            except (ConnectionError, http.client.HTTPException) as error:
                self._connection.close()
                if attempt == self._retries:
                    raise AnswerError(f"no connection to {self._url}: {_reason(error)}") from error
            except OSError as error:  # silence among them: asking again would double it
                self._connection.close()
                raise AnswerError(f"no answer from {self._url}: {_reason(error)}") from error
            except BaseException:  # a half-read answer must not be taken for the next one
                self._connection.close()
                raise
            time.sleep(_PAUSE * 2**attempt)
            attempt += 1

    def _answer(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        self._connection.request(
            method, self._prefix + path, body, {"Content-Type": "application/json"}
        )
        response = self._connection.getresponse()
        text = response.read()
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        if isinstance(content, dict) and "error" in content:
            error = content["error"]
            fault = error if isinstance(error, dict) else {"message": error}
            kind, message = fault.get("type", "error"), fault.get("message")
            raise AnswerError(f"the server says {kind}: {message}")
        if response.status == 200 and isinstance(content, dict):
            return content
        start = " ".join(text[:200].decode(errors="replace").split())
        raise AnswerError(f"the server answered status {response.status}, no JSON object: {start}")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
