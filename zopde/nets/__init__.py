"""Networks. They know nothing but torch."""

from zopde.nets.cnn import SmallCNN
from zopde.nets.correctors import ConvCorrector, Normalised, ResidualCorrector, build_corrector
from zopde.nets.resnet import CifarResNet

__all__ = [
    "CifarResNet",
    "ConvCorrector",
    "Normalised",
    "ResidualCorrector",
    "SmallCNN",
    "build_corrector",
]
