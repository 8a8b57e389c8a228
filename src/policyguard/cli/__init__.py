"""The command line: one module per group of commands. ``main`` is the program ``policyguard``."""

from policyguard.cli.app import main

__all__ = ["main"]
