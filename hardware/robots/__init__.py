"""Drivers: one file a robot."""
