"""The version of this package, in a file of its own: the build and `--version` read it."""

__version__ = "0.1.0"
