"""Everything this library raises.

FilesError            what was asked for cannot be read
├── NotThere          no volume or no file has this name
├── NotWhole          a file cannot be read to its end
├── CannotOpen        an encrypted volume cannot be opened
├── LimitReached      a file system claims more than a sane one has
└── ReaderDied        the child process that reads the file system ended, or said nonsense
"""


class FilesError(Exception):
    """What was asked for cannot be read."""


class NotThere(FilesError):
    """No volume and no file has this name."""


class NotWhole(FilesError):
    """A file cannot be read to its end: it is damaged, or of a kind that is not read."""


class LimitReached(FilesError):
    """A file system holds, or claims, more than the limits allow."""


class ReaderDied(FilesError):
    """The process that reads the file system ended without an answer, or gave a wrong one."""


class CannotOpen(FilesError):
    """The volume cannot be opened: unknown cipher, damaged header, or no key fits."""
