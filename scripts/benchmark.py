"""Measure how fast this machine trains, samples, steps environments and evaluates."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="benchmark",
    purpose="Measure how fast this machine trains, samples, steps environments and evaluates.",
    examples=[
        "python scripts/benchmark.py",
        "python scripts/benchmark.py what=training networks=[unet] seconds=10",
        "python scripts/benchmark.py what=evaluation checkpoint=outputs/lift/diffusion",
        "python scripts/benchmark.py what=robosuite beside=[lift] pairs=5",
        "python scripts/benchmark.py what=equality tasks=[lift,door]",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Measure, and say where the numbers are."""
    from robopolicy.benchmark import BenchmarkConfig, run_benchmark
    from robopolicy.registry import parse

    settings = parse(BenchmarkConfig, config, "benchmark")
    found = run_benchmark(settings)
    if settings.what == "equality":
        for name, result in found.items():
            print(f"{name}: {result['one_step']}")
    else:
        print(f"Measurements: {settings.out}, tables: {settings.page}")


if __name__ == "__main__":
    main()
