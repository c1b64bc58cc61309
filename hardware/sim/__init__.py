"""Simulated robots: processes of their own that speak what the real ones speak."""
