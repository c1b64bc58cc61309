"""How fast training, sampling, environments and data are on this machine: ``scripts/benchmark.py``."""

from robopolicy.benchmark.run import BenchmarkConfig, run_benchmark

__all__ = ["BenchmarkConfig", "run_benchmark"]
