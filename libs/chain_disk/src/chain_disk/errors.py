"""Everything this library raises.

ChainError          a file of the chain cannot be used, or does not belong to it
└── DamagedBlock    a block of the disk is not what was backed up
"""


class ChainError(Exception):
    """A file of a chain is missing, damaged or cut short, or does not belong to the chain."""


class DamagedBlock(ChainError):
    """A block of the disk is not the one that the digest list knows."""
