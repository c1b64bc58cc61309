"""Steer a policy by hand in a web browser."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="steer_web",
    purpose="A web page, for this machine only, to draw over a policy's plans and watch it follow.",
    examples=["python scripts/steer_web.py checkpoint=outputs/avoidance_absolute/diffusion"],
)
def main(config: dict[str, Any]) -> None:
    """Serve the page until interrupted."""
    from robopolicy.device import choose_device
    from robopolicy.learning.checkpoint import load
    from robopolicy.registry import parse
    from robopolicy.steering.web import HOST, Session, WebConfig, serve

    settings = parse(WebConfig, config, "steer_web")
    session = Session(load(settings.checkpoint, device=choose_device(settings.device)), settings)
    server = serve(session, settings.port)
    print(f"Open http://{HOST}:{server.server_address[1]} and draw; Ctrl-C ends.", flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()
        session.close()


if __name__ == "__main__":
    main()
