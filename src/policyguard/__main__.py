"""``python -m policyguard`` is the program ``policyguard``."""

import sys

from policyguard.cli import main

if __name__ == "__main__":
    sys.exit(main())
