"""BERT of transformers."""

from mmssl.interchange.bert.start import adapt_text_config, initial_tokenizer, load_initial_text_weights

__all__ = ["adapt_text_config", "initial_tokenizer", "load_initial_text_weights"]
