"""wav2vec 2.0 of transformers."""

from mmssl.interchange.wav2vec2.start import adapt_audio_config, load_initial_audio_weights

__all__ = ["adapt_audio_config", "load_initial_audio_weights"]
