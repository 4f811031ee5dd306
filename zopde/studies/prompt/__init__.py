"""Prompts of a frozen model that finds what a sentence tells of in a video."""

from zopde.studies.prompt.labels import LABELS
from zopde.studies.prompt.settings import PRESETS, PromptConfig, load_prompting
from zopde.studies.prompt.study import run_prompting

__all__ = ["LABELS", "PRESETS", "PromptConfig", "load_prompting", "run_prompting"]
