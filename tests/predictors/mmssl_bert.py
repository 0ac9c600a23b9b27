"""Our masked language model's weights in transformers' BertForMaskedLM, copied part by part."""

import torch


def copy_to_bert(model, transformers, **changes):
    """A BertForMaskedLM with the weights of ``model``."""
    config = model.config
    shape = config.encoder
    bert = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=config.vocabulary_size, hidden_size=shape.dim, num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads, intermediate_size=shape.mlp_dim, hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=shape.attention_dropout, max_position_embeddings=config.max_length,
            type_vocab_size=config.segments, layer_norm_eps=shape.norm_epsilon, pad_token_id=config.pad_id, **changes,
        )
    )  # fmt: skip
    with torch.no_grad():
        parts = bert.bert.embeddings
        parts.word_embeddings.weight.copy_(model.word_embedding.weight)
        parts.position_embeddings.weight.copy_(model.position_embedding.weight)
        parts.token_type_embeddings.weight.copy_(model.segment_embedding.weight)
        parts.LayerNorm.load_state_dict(model.embedding_norm.state_dict())
        for ours, theirs in zip(model.encoder.blocks, bert.bert.encoder.layer, strict=True):
            attention = theirs.attention
            projections = (attention.self.query, attention.self.key, attention.self.value)
            for name in ("weight", "bias"):
                values = getattr(ours.attention.qkv, name).chunk(3)
                for projection, value in zip(projections, values, strict=True):
                    getattr(projection, name).copy_(value)
            attention.output.dense.load_state_dict(ours.attention.proj.state_dict())
            attention.output.LayerNorm.load_state_dict(ours.norm1.state_dict())
            theirs.intermediate.dense.load_state_dict(ours.mlp.fc1.state_dict())
            theirs.output.dense.load_state_dict(ours.mlp.fc2.state_dict())
            theirs.output.LayerNorm.load_state_dict(ours.norm2.state_dict())
        head = bert.cls.predictions
        head.transform.dense.load_state_dict(model.head_dense.state_dict())
        head.transform.LayerNorm.load_state_dict(model.head_norm.state_dict())
        head.bias.copy_(model.head_bias)
    return bert
