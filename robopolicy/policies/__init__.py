"""Policies: one file each, registered by name; every module here is found by itself."""

from robopolicy.policies.policy import Policy as Policy
from robopolicy.policies.policy import Sample as Sample
