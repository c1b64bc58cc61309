"""Robots behind one guarded driver contract. Neither torch nor environments are imported here.

Nothing in this package is safety-rated: a real robot needs a hardware emergency stop within reach.
"""
