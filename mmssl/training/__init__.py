"""The loop and what it needs: optimizer, checkpoints, journal, run folder."""
