"""The product in which calls fail and processes die, as the tests of the backend have it."""

from apps.nutanix_backend.tests.conftest import faulty, prepared_door, quick_lab, tell

__all__ = ["faulty", "prepared_door", "quick_lab", "tell"]
