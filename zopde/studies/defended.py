"""A classifier behind its defence, and the file that keeps it."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from zopde.errors import InputError
from zopde.nets import Decoder, DnCNN, Encoder
from zopde.smoothing import BaseClassifier
from zopde.studies.classifiers import Classifier, frozen, named_classifier
from zopde.studies.model_file import built, kinds_of, read_model, write_model
from zopde.validate import checked


@final
class Defence(nn.Module):
    """Noisy images to images that a classifier can read: decode(encode(denoise(x))).

    Images have `side` pixels in both directions; without `latent` entries between them there are
    neither encoder nor decoder.
    """

    def __init__(self, channels: int, side: int, depth: int, width: int, latent: int = 0) -> None:
        super().__init__()
        sizes = {"channels": channels, "side": side, "depth": depth, "width": width}
        self.sizes = {**sizes, "latent": latent}
        denoiser = DnCNN(channels, depth, width)
        encoder = Encoder(channels, side, latent) if latent else nn.Identity()
        # Up to the cut, where the black box may begin; the decoder goes from there to an image.
        self.front = nn.Sequential(OrderedDict(denoiser=denoiser, encoder=encoder))
        self.decoder = Decoder(channels, side, latent) if latent else nn.Identity()

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Float[Tensor, "batch channel y x"]:
        """Pixels in the units of x."""
        image: Tensor = self.decoder(self.front(x))
        return image


@final
class Defended(nn.Module):
    """A classifier behind its defence: noisy pixels in [0, 1] to the classifier's answer.

    Args:
        defence: Images to images; None where the classifier stands alone.
        classifier: Any callable.
        sigma: Deviation of the noise that the defence was trained for, in the same units.
        classes: How many the classifier tells apart.
    """

    def __init__(
        self, defence: Defence | None, classifier: Classifier, sigma: float, classes: int
    ) -> None:
        super().__init__()
        self.defence = nn.Identity() if defence is None else defence
        self.classifier = classifier
        self.sigma, self.classes = sigma, classes

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Tensor:
        """Whatever the classifier says."""
        answer: Tensor = self.classifier(self.defence(x))
        return answer


def save_defended(
    defence: Defence, sigma: float, scale: float, classes: int, spec: str, path: Path
) -> None:
    """Write the defence as safetensors; the classifier by its name alone."""
    plan = {"sigma": sigma, "scale": scale, "classes": classes, "classifier": spec}
    write_model(path, "defence", {"plan": defence.sizes, **plan}, defence.state_dict())


@checked
def load_defended(path: Path | str, classifier: Classifier | None = None) -> Defended:
    """Load the defended classifier of a `model.safetensors`: pixels in [0, 1] to the answer.

    It is the base classifier that `Smooth` takes; `sigma` and `classes` are attributes.

    Args:
        path: A file that a defence run wrote.
        classifier: Who is defended; None is the one that the file names, a path being relative
            to the file's folder.

    Raises:
        InputError: If the file is missing or no defence of zopde, or names a classifier that is
            not there.
    """
    types = {"plan": dict[str, int], "sigma": float, "scale": float, "classes": int}
    plan, state = read_model(path, "defence", {**types, "classifier": str})
    defence = built(path, lambda: Defence(**plan["plan"]), state)
    frozen(defence)
    if classifier is None:
        spec = plan["classifier"]
        if not spec:
            what, got = f"classifier of {path}", "none: it was given in Python"
            remedy = "pass it to load_defended"
            raise InputError(what, got=got, expected="a classifier", remedy=remedy)
        if spec.endswith(".safetensors"):
            spec = str(Path(path).parent / spec)
        classifier = named_classifier(spec, plan["scale"])
    return Defended(defence, classifier, plan["sigma"], plan["classes"]).eval()


def load_base_classifier(spec: str, scale: float) -> BaseClassifier:
    """Load the classifier that `spec` names; a module comes in eval mode.

    Args:
        spec: A model.safetensors of `zopde classify`, which wants pixels in the units of their
            file, or of `zopde defend`; "package.module:name" or "file.py:name": a module, a class
            that builds without arguments, or a function; or "http://host:port/path". All but the
            first get pixels over `scale`.
        scale: What the pixels of the file are divided by.

    Raises:
        InputError: If there is none, or it cannot be built.
    """
    if spec.endswith(".safetensors") and "defence" in kinds_of(spec):
        return load_defended(spec)
    return named_classifier(spec, scale)
