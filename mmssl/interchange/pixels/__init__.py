"""Tasks on pixels: their backbone, a ViT or a model of timm, without the channel that says where a hole is."""

TASKS = ("colorization", "inpainting", "super_resolution", "restoration")
"""Names of the predictors."""
