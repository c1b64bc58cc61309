"""Policies: one file each, registered by name; every module here is found by itself."""

from robopolicy.policies.policy import Policy, Sample

__all__ = ["Policy", "Sample"]
