"""Networks. They know nothing but torch."""

from zopde.nets.autoencoder import Decoder, Encoder
from zopde.nets.cnn import SmallCNN
from zopde.nets.correctors import ConvCorrector, Normalised, ResidualCorrector, build_corrector
from zopde.nets.dncnn import DnCNN
from zopde.nets.resnet import CifarResNet

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
