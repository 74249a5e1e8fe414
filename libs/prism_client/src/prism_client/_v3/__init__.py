"""The v3 REST API, and v2 where v3 has no call. Nothing outside select.py may name this folder.

v4 hides where things are done; v3 does not: VMs, images and subnets are Prism Central's, snapshots,
changed regions and volume groups are each cluster's own.
"""
