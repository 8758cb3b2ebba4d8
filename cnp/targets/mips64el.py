"""MIPS64, little-endian: see mips.py."""

from cnp.targets import mips

TARGET = mips.make("little")
