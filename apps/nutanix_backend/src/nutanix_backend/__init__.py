"""VM-level backup and restore of Nutanix AHV for Bacula."""

__version__ = "0.1.0"
