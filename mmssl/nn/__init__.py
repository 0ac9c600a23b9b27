"""Layers shared by the modalities: one Transformer trunk, and the front ends that turn data into tokens."""

from mmssl.nn.packing import Packing
from mmssl.nn.transformer import CrossBlock, Transformer, TransformerConfig, document_mask, padding_mask

__all__ = ["CrossBlock", "Packing", "Transformer", "TransformerConfig", "document_mask", "padding_mask"]
