"""A standalone runner: plays the Bacula file daemon's role against a backend process.

It makes the product useful and testable without Bacula: files and objects are kept in a folder,
and levels, predecessors and restore chains are computed as the Director does it.
"""

__version__ = "0.1.0"
