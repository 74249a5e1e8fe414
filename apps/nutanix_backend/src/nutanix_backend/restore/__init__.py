"""A restore is a plan (made from manifests before data arrives) and its execution."""
