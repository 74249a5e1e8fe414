"""Nutanix Prism for backup products: snapshots, changed regions, volume groups, images, VMs."""

__version__ = "0.1.0"
