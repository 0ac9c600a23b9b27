"""Masked prediction in every modality: perturb the data, predict it back, keep the representation."""

__version__ = "0.1.0"
