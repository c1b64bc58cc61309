"""How fast training, sampling, environments and data are on this machine: ``scripts/benchmark.py``."""

from robopolicy.benchmark.run import BenchmarkConfig as BenchmarkConfig
from robopolicy.benchmark.run import run_benchmark as run_benchmark
