"""A policy in a process of its own, to be killed, stopped and stalled: SPEC_JSON DIRECTORY FAULT."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from hardware.link import RobotLink, action_size
from hardware.messages import ActionChunk
from hardware.spec import RobotSpec

HORIZON, DT_NS = 60, 20_000_000


def main() -> None:
    spec = RobotSpec.from_dict(json.loads(sys.argv[1]))
    fault = sys.argv[3]
    with RobotLink(spec, Path(sys.argv[2])) as link:
        link.arm()
        begun = time.monotonic()
        print(link.pid, flush=True)
        while True:
            observation = link.observe()[-1]
            times = observation.t_ns + DT_NS * np.arange(HORIZON)
            rows = np.repeat((0.3 * np.sin(3e-9 * times))[:, None], action_size(spec), axis=1)
            if time.monotonic() - begun > 0.5 and fault != "none":
                if fault == "nan":
                    rows[3, 0] = np.nan
                if fault == "slow":
                    print(time.monotonic_ns(), flush=True)
                    time.sleep(3600)
            link.submit(
                ActionChunk(t_obs_ns=observation.t_ns, t0_ns=observation.t_ns, dt_ns=DT_NS, actions=rows)
            )
            if fault == "nan" and np.isnan(rows).any():
                print(time.monotonic_ns(), flush=True)
                fault = "none"
            time.sleep(0.05)


if __name__ == "__main__":
    main()
