"""What was learned: features, probes, and pictures of predictions."""
