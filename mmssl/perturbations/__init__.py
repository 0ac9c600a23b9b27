"""What happens to the hidden part, and the cheap ways to fill it in that a predictor is measured against."""
