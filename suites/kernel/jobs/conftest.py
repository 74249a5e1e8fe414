"""The lab and the product, as the tests of the backend have them."""

from apps.nutanix_backend.tests.conftest import lab, loop_device, make_product, product

__all__ = ["lab", "loop_device", "make_product", "product"]
