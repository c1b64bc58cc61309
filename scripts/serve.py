"""Serve a trained policy to other processes and computers."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="serve",
    purpose="Serve a trained policy over openpi's protocol: websockets and msgpack. Anything that takes a "
    "checkpoint takes the server's address.",
    examples=[
        "python scripts/serve.py checkpoint=outputs/lift/diffusion",
        "python scripts/evaluate.py checkpoint=ws://127.0.0.1:8000",
        "python scripts/serve.py checkpoint=... sampler=dpm sampler.steps=5 server.port=8001",
        "python scripts/serve.py checkpoint=... steer=value steer.critic=outputs/lift/iql",
        "ROBOPOLICY_TOKEN=secret python scripts/serve.py checkpoint=... server.host=0.0.0.0",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Serve until interrupted."""
    from robopolicy.registry import parse
    from robopolicy.serving.serve import ServeConfig, serve_checkpoint

    serve_checkpoint(parse(ServeConfig, config, "serve"))


if __name__ == "__main__":
    main()
