"""Our contrastive predictor's weights in transformers' Wav2Vec2ForPreTraining, without dropout."""

from mmssl.interchange.wav2vec2.names import wav2vec2_to
from mmssl.interchange.wav2vec2.write import wav2vec2_config

QUIET = dict.fromkeys(
    ["hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "feat_quantizer_dropout"], 0.0
)


def copy_to_wav2vec2(model, transformers, **changes):
    """A Wav2Vec2ForPreTraining with the weights of ``model``."""
    settings = wav2vec2_config(model.config, model.config.encoder.front_end) | QUIET | changes
    peer = transformers.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config(**settings))
    peer.load_state_dict(wav2vec2_to(model.state_dict()))
    return peer
