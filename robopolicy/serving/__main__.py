"""Serve a model of any framework from its own environment; needs no torch.

python -m robopolicy.serving my_model:make --port 8000    # make() returns a robopolicy.serving.served.Served
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from robopolicy.errors import ConfigError, RobopolicyError
from robopolicy.serving.served import Served
from robopolicy.serving.server import ServerConfig, serve_forever

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Import the module (from the present directory too), call the function, serve what it returns."""
    parser = argparse.ArgumentParser(prog="python -m robopolicy.serving", description=__doc__)
    parser.add_argument("factory", help="module:function that returns what is served")
    parser.add_argument("--host", default=ServerConfig.host)
    parser.add_argument("--port", type=int, default=ServerConfig.port)
    chosen = parser.parse_args(arguments)
    module, _, function = chosen.factory.partition(":")
    sys.path.insert(0, "")
    try:
        try:
            served = getattr(importlib.import_module(module), function)()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{chosen.factory}: {error}.") from error
        if not isinstance(served, Served):
            raise ConfigError(f"{chosen.factory} made a {type(served).__name__}, not a Served.")
        serve_forever(served, ServerConfig(host=chosen.host, port=chosen.port), name=chosen.factory)
    except (RobopolicyError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
