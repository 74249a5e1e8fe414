"""PTCOMM framing and sessions between the metaplugin of bacula-fd and a backend."""

__version__ = "0.1.0"
