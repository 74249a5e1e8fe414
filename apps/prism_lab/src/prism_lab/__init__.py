"""A Prism Central, a Prism Element and an iSCSI target on loopback, with real bytes behind them."""

from prism_lab._server import Exchange
from prism_lab.errors import CommandFailed, ControlFailed, LabError, NotInLab, StartFailed
from prism_lab.faults import Fault, Faults
from prism_lab.lab import Lab
from prism_lab.latency import Latency
from prism_lab.settings import PERSONALITIES, Settings

__version__ = "0.1.0"

__all__ = [
    "PERSONALITIES",
    "CommandFailed",
    "ControlFailed",
    "Exchange",
    "Fault",
    "Faults",
    "Lab",
    "LabError",
    "Latency",
    "NotInLab",
    "Settings",
    "StartFailed",
]
