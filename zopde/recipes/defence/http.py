"""A classifier behind a network address."""

from __future__ import annotations

from typing import final
from urllib.parse import urlsplit

import torch
from jaxtyping import Float
from torch import Tensor

from zopde.checks import check_count, check_not_negative, check_positive
from zopde.errors import ClassifierError, InputError
from zopde.session import AnswerError, Session


@final
class HttpClassifier:
    """Images to scores or labels by JSON.

        POST url  {"images": [[[[...]]]]}   pixels in [0, 1], (n, channel, y, x)
        answer    {"scores": [[...]]}  or  {"labels": [...]}  or  {"error": ...}

    A broken connection is made anew, at most `retries` times; silence and an error end the run,
    which `--resume` continues.

    Args:
        url: "http://host:port/path" or "https://...".
        timeout: Seconds for which the server may be silent, > 0.
        retries: How often a request is sent again after the connection broke, >= 0.
        at_once: Images of a request at most.

    Raises:
        InputError: If the address is none, or a number is out of range.
    """

    def __init__(
        self, url: str, timeout: float = 60.0, retries: int = 2, at_once: int = 256
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise InputError("classifier", got=repr(url), expected="http://host:port/path")
        check_positive("timeout", timeout)
        check_not_negative("retries", retries)
        check_count("at_once", at_once)
        self._session = Session(f"{parts.scheme}://{parts.netloc}", timeout, retries)
        self._path, self._at_once = parts.path or "/", at_once

    def __call__(self, images: Float[Tensor, "n channel y x"]) -> Tensor:
        """(n, class) scores, or (n,) labels.

        Raises:
            ClassifierError: If no answer came, or one that is none.
        """
        return torch.cat([self._one(part) for part in images.split(self._at_once)])

    def _one(self, images: Tensor) -> Tensor:
        try:
            answer = self._session.post(self._path, {"images": images.cpu().tolist()})
            said = answer["scores"] if "scores" in answer else answer["labels"]
            return torch.tensor(said)
        except (AnswerError, KeyError, TypeError, ValueError) as error:
            raise ClassifierError(str(error)) from error
