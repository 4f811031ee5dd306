"""The smoothed classifier: what the base classifier says most often under noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from zopde.errors import InputError
from zopde.smoothing.bounds import certified_radius, check_alpha, lower_bound, sign_test
from zopde.smoothing.sequential import Verdict, looks, thresholds, verdict
from zopde.validate import check_count, check_positive, checked

ABSTAIN = -1
"""The prediction of a smoothed classifier that is not sure enough of any class."""
_ENTRIES = 2**18  # of a block of noise: 1 MiB in single precision
_ROWS = 64  # of a block where nobody knows how many will be needed
BaseClassifier = Callable[[Tensor], Any]
"""(batch, channel, y, x) -> scores (batch, classes), or labels (batch,) of an integer type."""


class Certificate(NamedTuple):
    """What is known about the smoothed classifier at one input."""

    prediction: int  # the class, or -1: it abstains
    radius: float  # L2 radius within which the answer holds, in the units of the input; 0 with -1
    lower: float  # lower bound of the probability that the base classifier says that class


class Decision(NamedTuple):
    """What was decided about the smoothed classifier at one input, radius by radius."""

    prediction: int  # the class, or -1: no radius is certified
    radius: float  # the largest that is certified, in the units of the input; 0 with -1
    answers: int  # of the base classifier, those that chose the class among them
    verdicts: tuple[Verdict, ...]  # on each radius


@final
class NoiseStream:
    """Rows of N(0, 1), taken a few at a time; how few changes no number.

    A generator gives other numbers for other shapes. So they are drawn in blocks whose size
    follows from the row's shape and `rows` alone, and what a call leaves over waits for the next.
    """

    def __init__(
        self, shape: torch.Size, rows: int, generator: Generator, dtype: torch.dtype
    ) -> None:
        self._size = min(rows, max(1, _ENTRIES // max(1, shape.numel())))
        self._block = torch.empty(self._size, *shape, dtype=dtype, device=generator.device)
        self._generator, self._used = generator, self._size

    def fill(self, target: Float[Tensor, "batch ..."]) -> None:
        """Overwrite `target` with the next rows."""
        while len(target):
            if self._used == self._size:
                self._block.normal_(generator=self._generator)
                self._used = 0
            count = min(self._size - self._used, len(target))
            target[:count] = self._block[self._used : self._used + count]
            target, self._used = target[count:], self._used + count


@final
class Smooth:
    """Turns a classifier f into the smoothed classifier g, whose answers can be certified.

        g(x) = argmax_c P(f(x + e) = c),   e ~ N(0, sigma^2 I)

    (Cohen et al., ICML 2019, eq. 1; `predict` and `certify` are theirs.)

    The noise is added to the model's INPUT, as it is handed to `base_classifier`, before any
    normalisation that the classifier does itself; so `sigma` and every radius are in the units
    of that input: a classifier of pixels 0 ... 255 has sigma = 64 where one of pixels 0 ... 1
    has 0.25.

    The guarantee is for the base classifier as a fixed function. A `torch.nn.Module` is asked in
    eval mode, without a graph, and left in the modes that it had.

    Args:
        base_classifier: f, any callable: (batch, channel, y, x) to scores (batch, classes), or to
            integer labels (batch,). Arrays will do as well as tensors.
        num_classes: How many there are, >= 2.
        sigma: Standard deviation (no variance) of the noise; > 0.

    Raises:
        InputError: If `num_classes` or `sigma` is outside its range.

    Example:
        >>> import torch
        >>> from zopde import Smooth
        >>> right_of_zero = Smooth(lambda x: (x[:, 0, 0, 0] > 0).long(), 2, sigma=0.5)
        >>> gen = torch.Generator().manual_seed(0)
        >>> found = right_of_zero.certify(torch.full((1, 1, 1), 0.3), 100, 10_000, 0.001, gen)
        >>> found.prediction, 0.25 < found.radius < 0.3  # 0.3 with endless samples
        (1, True)
    """

    @checked
    def __init__(self, base_classifier: BaseClassifier, num_classes: int, sigma: float) -> None:
        check_positive("sigma", sigma)
        check_count("num_classes", num_classes)
        if num_classes < 2:
            raise InputError("num_classes", got=num_classes, expected="at least 2")
        self.base_classifier, self.num_classes = base_classifier, num_classes
        self.sigma = sigma

    def predict(
        self,
        x: Float[Tensor, "channel y x"],
        n: int,
        alpha: float,
        generator: Generator,
        batch: int = 1000,
    ) -> int:
        """g(x), wrong with a probability of at most alpha; or -1, which is no answer.

        The class with most votes, where a two-sided sign test against the runner-up has
        p <= alpha, in (0, 1). The other arguments, and what is raised, are those of `counts`.
        """
        check_alpha(alpha)
        counts = self.counts(x, n, generator, batch)
        first, second = counts.topk(2)[0].tolist()
        return int(counts.argmax()) if sign_test(first, second) <= alpha else ABSTAIN

    def certify(
        self,
        x: Float[Tensor, "channel y x"],
        n0: int,
        n: int,
        alpha: float,
        generator: Generator,
        batch: int = 1000,
    ) -> Certificate:
        """g(x) and a radius within which it holds, both wrong with probability <= alpha.

        n0 samples choose the class; n others bound its probability from below by p_lower. Where
        that is not above 1/2 it abstains, else R = sigma Phi^-1(p_lower).

        The other arguments, and what is raised, are those of `predict`.
        """
        check_alpha(alpha)
        check_count("n", n)
        chosen = int(self.counts(x, n0, generator, batch).argmax())
        favourable = int(self.counts(x, n, generator, batch)[chosen])
        lower = lower_bound(favourable, n, alpha)
        if lower <= 0.5:
            return Certificate(ABSTAIN, 0.0, lower)
        return Certificate(chosen, certified_radius(self.sigma, lower), lower)

    def decide(
        self,
        x: Float[Tensor, "channel y x"],
        radii: Sequence[float],
        n0: int,
        most: int,
        alpha: float,
        generator: Generator,
        batch: int = 1000,
    ) -> Decision:
        """Decide whether g(x) holds within given radii, and ask only until that is clear.

        n0 samples choose the class. Others are asked for, up to `most`, until its probability is
        seen to be above p0 = Phi(R / sigma), "yes", or below, "no"; see `verdict`. Each verdict is
        wrong with a probability of at most `alpha`, whenever it falls; all radii share the answers.
        An image of which the base classifier is sure takes fewer answers than the count that
        `certify` needs, by far; one at the threshold takes them all and stays "undecided".

        Args:
            x: As in `counts`.
            radii: R, one or more, each >= 0 and within reach of `most` answers.
            n0: Samples that choose the class, >= 1.
            most: Samples that may decide, >= 1.
            alpha: In (0, 1).
            generator: Decides the noise; that of a sample depends on nothing but its number.
            batch: As in `counts`.

        Raises:
            InputError: If an argument or the classifier's answer will not do.
        """
        check_alpha(alpha)
        limits = thresholds(radii, self.sigma, alpha, most)
        chosen = int(self.counts(x, n0, generator, batch).argmax())
        stream = NoiseStream(x.shape, _ROWS, generator, _exact(x).dtype)
        verdicts: list[Verdict] = ["undecided"] * len(limits)
        asked = favourable = 0
        for look in looks(most):
            favourable += int(self._counts(x, look - asked, stream, batch)[chosen])
            asked = look
            for i, limit in enumerate(limits):
                if verdicts[i] == "undecided":
                    verdicts[i] = verdict(favourable, asked, limit, alpha)
            if "undecided" not in verdicts:
                break
        held = [radius for radius, said in zip(radii, verdicts, strict=True) if said == "yes"]
        prediction = chosen if held else ABSTAIN
        return Decision(prediction, float(max(held, default=0.0)), n0 + asked, tuple(verdicts))

    def counts(
        self, x: Float[Tensor, "channel y x"], n: int, generator: Generator, batch: int = 1000
    ) -> Int[Tensor, " classes"]:
        """How many of n noisy copies of x get each class; memory grows with `batch` alone.

        Args:
            x: One input; whole numbers are taken as torch's default floating-point type.
            n: Samples, >= 1.
            generator: Decides the noise; advanced.
            batch: Samples that are classified at a time; changes no vote.

        Raises:
            InputError: If an argument or the classifier's answer will not do.
        """
        check_count("n", n)
        check_count("batch", batch)
        return self._counts(x, n, NoiseStream(x.shape, n, generator, _exact(x).dtype), batch)

    @torch.no_grad()
    def _counts(self, x: Tensor, n: int, stream: NoiseStream, batch: int) -> Tensor:
        """The votes of the next n rows of the stream."""
        exact = _exact(x)
        counts = torch.zeros(self.num_classes, dtype=torch.int64)
        with _evaluating(self.base_classifier):
            for first in range(0, n, batch):
                # New every time: a classifier may keep what it is given.
                noisy = exact.new_empty(min(batch, n - first), *exact.shape)
                stream.fill(noisy)
                noisy.mul_(self.sigma).add_(exact)
                classes = votes(self.base_classifier(noisy), len(noisy), self.num_classes)
                counts += torch.bincount(classes, minlength=self.num_classes)
        return counts


def _exact(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def votes(answer: Any, batch: int, num_classes: int) -> Int[Tensor, " batch"]:  # noqa: ANN401
    """Find the class that each row of a classifier's answer means, on the CPU.

    Args:
        answer: Scores (batch, classes) or integer labels (batch,), a tensor or an array.
        batch: How many inputs it is for.
        num_classes: How many classes there are.

    Raises:
        InputError: If it is neither, a score is NaN, or a label is no class.
    """

    def unfit(got: str, expected: str, remedy: str = "") -> InputError:
        return InputError("base classifier", got=got, expected=expected, remedy=remedy)

    fit = f"scores ({batch}, {num_classes}) or integer labels ({batch},)"
    try:
        values = torch.as_tensor(answer).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise unfit(f"an answer {type(answer).__name__}", fit) from error
    if values.shape == (batch, num_classes):
        bad = int(values.isnan().any(dim=1).sum())
        if bad:
            got = f"NaN among the scores of {bad} of {batch} inputs"
            remedy = "mend the classifier, or look at its input's range"
            raise unfit(got, "numbers: which class NaN means, nobody knows", remedy)
        return values.argmax(dim=1).cpu()
    whole = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
    if values.shape != (batch,) or not whole:
        raise unfit(f"an answer {values.dtype} of shape {tuple(values.shape)}", fit)
    labels = values.long().cpu()
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise unfit(f"labels in [{low}, {high}]", f"values in [0, {num_classes})")
    return labels


@contextmanager
def _evaluating(classifier: BaseClassifier) -> Iterator[None]:
    """A module in eval mode; each part of it then gets back the mode that it had."""
    modules = classifier.modules() if isinstance(classifier, nn.Module) else ()
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
