"""Trained defences as files."""

from __future__ import annotations

from pathlib import Path
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from zopde.errors import InputError
from zopde.studies.classifiers import Classifier, ClassifierSettings, frozen, named_classifier
from zopde.studies.defend.problem import Defence, Plan
from zopde.studies.defend.settings import DefenceConfig
from zopde.studies.model_file import read_model, write_model


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
        said: Tensor = self.classifier(self.defence(x))
        return said


def save_defended(
    defence: Defence, config: DefenceConfig, scale: float, classes: int, spec: str, path: Path
) -> None:
    """Write the defence as safetensors; the classifier by its name alone."""
    plan = {
        "plan": defence.plan.as_tree(),
        "sigma": config.defence.sigma,
        "scale": scale,
        "classes": classes,
        "classifier": spec,
    }
    write_model(path, "defence", plan, defence.state_dict())


def load_defended(path: Path | str, classifier: Classifier | None = None) -> Defended:
    """The defended classifier of a `model.safetensors`: pixels in [0, 1] to the answer.

    It is the base classifier that `Smooth` takes; `sigma` and `classes` are attributes.

    Args:
        path: A file that a defence run wrote.
        classifier: Who is asked; None is the one that the file names, a path being relative to
            the file's folder.

    Raises:
        InputError: If the file is missing or no defence of zopde, or names a classifier that is
            not there.
    """
    plan, state = read_model(path, "defence")
    defence = Defence(Plan(**plan["plan"]))
    defence.load_state_dict(state)
    frozen(defence)
    if classifier is None:
        spec = plan["classifier"]
        if not spec:
            raise InputError(
                f"classifier of {path}",
                got="none: it was given in Python",
                expected="a classifier",
                remedy="pass it to load_defended",
            )
        if spec.endswith(".safetensors"):
            spec = str(Path(path).parent / spec)
        classifier = named_classifier(ClassifierSettings(spec=spec), plan["scale"])
    return Defended(defence, classifier, plan["sigma"], plan["classes"]).eval()
