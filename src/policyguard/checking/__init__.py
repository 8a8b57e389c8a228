"""How a guard checks: one image or a group of them, many in threads, many on an event loop."""

from policyguard.checking.checker import Checker

__all__ = ["Checker"]
