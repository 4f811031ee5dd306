"""One kept-alive connection that speaks JSON, tolerant where the world is not."""

from __future__ import annotations

import http.client
import json
import select
import time
import weakref
from collections.abc import Mapping
from typing import Any, final
from urllib.parse import urlsplit

import torch
from torch import Tensor

from zopde.errors import StepError

_PAUSE = 0.1  # seconds before the first new attempt, twice as long before each further one


@final
class Session:
    """A connection that is made when needed, and made anew, `retries` times, where it breaks.

    The server may be silent for `timeout` seconds. A path in the URL goes before all others.
    """

    def __init__(self, url: str, timeout: float, retries: int) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._connection = kind(parts.netloc, timeout=timeout)
        self._url, self._prefix, self._retries = url, parts.path.rstrip("/"), retries
        weakref.finalize(self, self._connection.close)

    def ask(self, path: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """POST JSON, or GET without any; receive a JSON object, in which NaN and Infinity may be.

        Raises:
            StepError: If no answer came, or one that is an error or no JSON object.
        """
        body = None if content is None else json.dumps(content).encode()
        attempt = 0
        while True:
            try:
                return self._answer(path, body)
            except BaseException as error:
                self._connection.close()  # a half-read answer must not be taken for the next one
                why = f"{type(error).__name__}: {error}".removesuffix(": ")
                if isinstance(error, ConnectionError | http.client.HTTPException):
                    if attempt == self._retries:
                        raise StepError(f"no connection to {self._url}: {why}") from error
                elif isinstance(error, OSError):  # silence among them: again would double it
                    raise StepError(f"no answer from {self._url}: {why}") from error
                else:
                    raise
            time.sleep(_PAUSE * 2**attempt)
            attempt += 1

    def _answer(self, path: str, body: bytes | None) -> dict[str, Any]:
        method, head = "GET" if body is None else "POST", {"Content-Type": "application/json"}
        if self._connection.sock is not None:
            poll = select.poll()  # what can be read before a question is that the server hung up
            poll.register(self._connection.sock, select.POLLIN)
            if poll.poll(0):
                self._connection.close()  # nothing is lost: it is made anew
        self._connection.request(method, self._prefix + path, body, head)
        response = self._connection.getresponse()
        text = response.read()
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict) and "error" in content:
            error = content["error"]
            fault = error if isinstance(error, dict) else {"message": error}
            kind, message = fault.get("type", "error"), fault.get("message")
            raise StepError(f"the server says {kind}: {message}")
        if response.status == 200 and isinstance(content, dict):
            return content
        start = " ".join(text[:200].decode(errors="replace").split())
        raise StepError(f"the server answered status {response.status}, no JSON object: {start}")


def numbers_of(values: object) -> Tensor:
    """A list of numbers, or of such lists, in float64; NaN and Infinity may be in it.

    Raises:
        StepError: If it is something else, as true and false are.
    """
    outer = values if isinstance(values, list) else []
    lists = [outer, *(row for row in outer if isinstance(row, list))]
    try:
        if any(bool in map(type, row) for row in lists):
            raise TypeError
        return torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise StepError("no list of numbers that float64 can hold") from error


def is_address(url: object) -> bool:
    """Whether it is http://host:port, with or without a port and a path."""
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False
