"""Networks. They know torch, and of a domain where its cells lie."""

from zopde.nets.classifiers import CifarResNet, SmallCNN
from zopde.nets.coordinates import coordinate_channels
from zopde.nets.correctors import ConvCorrector, Normalised, ResidualCorrector
from zopde.nets.defences import Decoder, DnCNN, Encoder, ScoreNet
from zopde.nets.graph import GraphCorrector
from zopde.nets.grounding import FrameFeatures, GroundingModel, GroundingPrompts
from zopde.nets.kinds import build_corrector
from zopde.nets.projected import Projected
from zopde.nets.spans import recall_at, temporal_distance

__all__ = [
    "CifarResNet",
    "ConvCorrector",
    "Decoder",
    "DnCNN",
    "Encoder",
    "FrameFeatures",
    "GraphCorrector",
    "GroundingModel",
    "GroundingPrompts",
    "Normalised",
    "Projected",
    "ResidualCorrector",
    "ScoreNet",
    "SmallCNN",
    "build_corrector",
    "coordinate_channels",
    "recall_at",
    "temporal_distance",
]
