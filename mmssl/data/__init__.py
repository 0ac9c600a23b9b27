"""Media in, tensors out. Knows nothing of predictors or training: they meet in the recipe."""
