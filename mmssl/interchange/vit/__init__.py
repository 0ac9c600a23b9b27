"""Vision transformers: MAE and ViT of transformers and timm."""
