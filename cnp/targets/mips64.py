"""MIPS64, big-endian: see mips.py."""

from cnp.targets import mips

TARGET = mips.make("big")
