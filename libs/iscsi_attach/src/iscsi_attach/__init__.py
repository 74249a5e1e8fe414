"""iSCSI and O_DIRECT block devices, and a pipelined extent reader."""

__version__ = "0.1.0"
