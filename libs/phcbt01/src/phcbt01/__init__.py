"""The PHCBT01 delta format: decode, encode, index, apply, diff and merge."""

__version__ = "0.1.0"
