"""Single files of a backup, and its disks as they were, without restoring them."""
