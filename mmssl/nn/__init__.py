"""Layers shared by the modalities: one Transformer trunk, and the front ends that turn data into tokens."""

from mmssl.nn.audio_encoder import AudioEncoder, AudioEncoderConfig
from mmssl.nn.frames import Frames
from mmssl.nn.mel import MelConfig
from mmssl.nn.packing import Packing
from mmssl.nn.quantizer import GumbelQuantizer, QuantizerConfig
from mmssl.nn.transformer import CrossBlock, Transformer, TransformerConfig, document_mask, padding_mask
from mmssl.nn.waveform import WaveformConfig

__all__ = [
    "AudioEncoder",
    "AudioEncoderConfig",
    "CrossBlock",
    "Frames",
    "GumbelQuantizer",
    "MelConfig",
    "Packing",
    "QuantizerConfig",
    "Transformer",
    "TransformerConfig",
    "WaveformConfig",
    "document_mask",
    "padding_mask",
]
