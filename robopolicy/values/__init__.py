"""Values learned from recorded episodes: ``scripts/train_value.py``."""
