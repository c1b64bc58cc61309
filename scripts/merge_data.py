"""Put episodes of several stores into one."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="merge_data",
    purpose="Put episodes of several stores into one: all, or the successful ones; of one task, or of "
    "several with instructions.",
    examples=[
        "python scripts/merge_data.py data=[data/can.zarr,data/more.zarr] successful=true out=data/good.zarr",
        "python scripts/merge_data.py data=[data/reach.zarr,data/push.zarr] episodes=50 out=data/both.zarr",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Merge, and say what came out."""
    from robopolicy.data.merge import MergeConfig, merge
    from robopolicy.registry import parse

    settings = parse(MergeConfig, config, "merge_data")
    store = merge(settings)
    good = int((store.successes == 1).sum())
    print(f"{settings.out}: {len(store)} episodes, {good} successful, {int(store.lengths.sum())} steps.")
    if store.task is None:
        print("The stores are of different tasks: give task=... where one is needed.")
    print(f"Next:\n  python scripts/inspect_data.py data={settings.out}")


if __name__ == "__main__":
    main()
