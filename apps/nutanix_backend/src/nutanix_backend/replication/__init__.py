"""Replicas of VMs on any host: the source, the receiver, and failing over."""
