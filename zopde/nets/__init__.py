"""Networks. They know nothing but torch."""

from zopde.nets.correctors import ConvCorrector, Normalised, ResidualCorrector, build_corrector

__all__ = ["ConvCorrector", "Normalised", "ResidualCorrector", "build_corrector"]
