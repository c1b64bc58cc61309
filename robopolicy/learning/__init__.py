"""Supervised training, checkpoints, logs."""
