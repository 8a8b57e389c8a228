"""The version, and the name to install by, each in one place: pyproject.toml reads or is held to them."""

__version__ = "0.1.0"

DISTRIBUTION = "policyguard-vision"
"""What pip calls this package. The name ``policyguard`` on the package index is another project's."""
