"""A restore is a plan (from manifests, before data arrives) and its execution (one writer a disk)."""
