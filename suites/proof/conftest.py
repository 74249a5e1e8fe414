"""Whether a backup proves that it can be restored: planted faults of change tracking; histories."""

from apps.nutanix_backend.tests.conftest import faulty, prepared_door, quick_lab, tell

__all__ = ["faulty", "prepared_door", "quick_lab", "tell"]
