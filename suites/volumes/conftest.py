"""Volume groups that are saved with VMs: every chain, each point restored; faults and kills."""

from apps.nutanix_backend.tests.conftest import faulty, make_product, prepared_door, quick_lab, tell

__all__ = ["faulty", "make_product", "prepared_door", "quick_lab", "tell"]
