"""What can go wrong in the lab itself; nothing here travels over HTTP.

LabError                 the lab cannot do what was asked of it
├── StartFailed          no free addresses, a daemon did not come up
├── CommandFailed        a tool (tgtadm, qemu-img) ended with an error
├── NotInLab             no such VM, disk, recovery point or running lab
└── ControlFailed        the running lab refused a command of `prism-lab`
"""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot do what was asked of it; the message says what and where."""


class StartFailed(LabError):
    """A part of the lab did not come up."""


class CommandFailed(LabError):
    """A system tool ended with an error; the message ends with its own words."""


class NotInLab(LabError):
    """No such VM, disk, recovery point or running lab."""


class ControlFailed(LabError):
    """The running lab refused a command; the message is the lab's."""
