"""The PHCBT01 delta format: decode, encode, index, apply, diff and merge."""

from phcbt01._apply import Applier, apply
from phcbt01._diff import diff
from phcbt01._identify import Reading, identify
from phcbt01._layout import HEADER_SIZE, MAGIC, OURS, REGION_HEADER_SIZE, Layout, encoded_size
from phcbt01._merge import merge
from phcbt01.decode import Decoder
from phcbt01.encode import Encoder
from phcbt01.errors import (
    ApplyError,
    Code,
    EncodeError,
    FormatError,
    PhcbtError,
    ShrunkDisk,
    TargetTooSmall,
    UsageError,
)
from phcbt01.files import FileTarget
from phcbt01.index import Entry, Index, read_index
from phcbt01.model import MAX_SIZE, Buffer, Data, End, Event, Header, Region
from phcbt01.target import Target, is_zero, write_sparse

__version__ = "0.1.0"

__all__ = [
    "HEADER_SIZE",
    "MAGIC",
    "MAX_SIZE",
    "OURS",
    "REGION_HEADER_SIZE",
    "Applier",
    "ApplyError",
    "Buffer",
    "Code",
    "Data",
    "Decoder",
    "EncodeError",
    "Encoder",
    "End",
    "Entry",
    "Event",
    "FileTarget",
    "FormatError",
    "Header",
    "Index",
    "Layout",
    "PhcbtError",
    "Reading",
    "Region",
    "ShrunkDisk",
    "Target",
    "TargetTooSmall",
    "UsageError",
    "apply",
    "diff",
    "encoded_size",
    "identify",
    "is_zero",
    "merge",
    "read_index",
    "write_sparse",
]
