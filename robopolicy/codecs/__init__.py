"""Between the robot's units and the network's: normalisation, action representations, rotations."""

from robopolicy.codecs.codec import Codec, CodecConfig

__all__ = ["Codec", "CodecConfig"]
