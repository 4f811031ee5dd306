"""Networks. They know nothing but torch."""

from zopde.nets.classifiers import CifarResNet, SmallCNN
from zopde.nets.correctors import ConvCorrector, Normalised, ResidualCorrector, build_corrector
from zopde.nets.defences import Decoder, DnCNN, Encoder

__all__ = [
    "CifarResNet",
    "ConvCorrector",
    "Decoder",
    "DnCNN",
    "Encoder",
    "Normalised",
    "ResidualCorrector",
    "SmallCNN",
    "build_corrector",
]
