"""A diffusion world model to practise in: dynamics, success, and lanes that imagine."""
