"""Between the robot's units and the network's: normalisation, action representations, rotations."""

from robopolicy.codecs.codec import Codec as Codec
from robopolicy.codecs.codec import CodecConfig as CodecConfig
