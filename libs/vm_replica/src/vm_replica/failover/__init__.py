"""Failing over to a replica: the rules, the audit log, the copies, the command line."""
