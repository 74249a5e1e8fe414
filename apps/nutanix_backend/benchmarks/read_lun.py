"""LUN 0 of a target to a pipe, as fast as the backend would read it: what bpipe runs.

python read_lun.py PORTAL TARGET INITIATOR
"""

from __future__ import annotations

import fcntl
import os
import sys

from iscsi_attach import Extent, Portal, Target, attach, read_extents
from ptcomm.stdio import PIPE_SIZE


def main() -> None:
    """Read it all."""
    portal, target, initiator = sys.argv[1:]
    fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    with (
        attach(Target(Portal(portal), target), initiator=initiator) as attachment,
        attachment.open(attachment.luns[0].lun) as device,
    ):
        for _, view in read_extents(device, [Extent(0, device.size)]):
            left = view
            while left:
                left = left[os.write(1, left) :]


if __name__ == "__main__":
    main()
