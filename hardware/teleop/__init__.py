"""A person drives a robot, simulated or real, and every step is recorded. See docs/teleoperation.md."""
