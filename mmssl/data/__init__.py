"""Media in, tensors out. Knows nothing of predictors or training: they meet in the recipe.

``images``, ``text`` and ``audio`` read what users have; the order of samples, labels and limits are the same for all.
"""
