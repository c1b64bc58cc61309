"""Policies: one file each, registered by name."""

from robopolicy.policies.diffusion import DiffusionPolicy as DiffusionPolicy
from robopolicy.policies.policy import Policy as Policy
from robopolicy.policies.policy import Sample as Sample
