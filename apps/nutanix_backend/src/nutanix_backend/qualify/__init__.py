"""`podheitor-nutanix-backend qualify`: does this cluster do what the product relies on."""
