"""Networks: (noisy chunk `[B, Tp, Dz]`, noise level `[B]`, condition `[B, To, Dc]`) -> `[B, Tp, Dz]`."""

from robopolicy.networks.mlp import MLP
from robopolicy.networks.unet1d import UNet1D as UNet1D

__all__ = ["MLP", "UNet1D"]
