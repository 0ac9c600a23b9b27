"""In from and out to timm and transformers, each way with a check that both compute the same.

export("runs/photos", "timm", Path("photos-timm"))          # writes, reloads with timm, compares

config = adapt_config(config, "photos-timm")                 # sizes, patch, positions of what is there
predictor = MaskedAutoencoder(config)
print(load_initial_weights(predictor, "photos-timm"))

tokenizer = initial_tokenizer("bert-folder")                 # the same for texts
config = adapt_text_config(config, "bert-folder")
predictor = MaskedLanguageModel(config)
print(load_initial_text_weights(predictor, "bert-folder"))

config = adapt_pixel_config(config, "photos-timm")           # pixels: a trunk from any of these, or a model of timm
predictor = Inpainting(config)
print(load_initial_pixel_weights(predictor, "photos-timm"))  # or load_pretrained(predictor), as timm publishes them

config = adapt_audio_config(config, "wav2vec2-folder")       # and for recordings
predictor = Wav2Vec2(config)
print(load_initial_audio_weights(predictor, "wav2vec2-folder"))

What all modalities share lies here; what a published family is called and how it is laid out, in ``vit``,
``bert`` and ``wav2vec2``; ``pixels`` puts an encoder of pictures under tasks that predict pixels.
"""

from mmssl.interchange.bert import adapt_text_config, initial_tokenizer, load_initial_text_weights
from mmssl.interchange.pixels.start import adapt_pixel_config, load_initial_pixel_weights, load_pretrained
from mmssl.interchange.vit.start import adapt_config, load_initial_weights
from mmssl.interchange.wav2vec2 import adapt_audio_config, load_initial_audio_weights
from mmssl.interchange.write import export

__all__ = [
    "adapt_audio_config",
    "adapt_config",
    "adapt_pixel_config",
    "adapt_text_config",
    "export",
    "initial_tokenizer",
    "load_initial_audio_weights",
    "load_initial_pixel_weights",
    "load_initial_text_weights",
    "load_initial_weights",
    "load_pretrained",
]
