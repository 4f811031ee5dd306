"""Certified defence of a black-box classifier: a denoiser trained through it, by queries."""
