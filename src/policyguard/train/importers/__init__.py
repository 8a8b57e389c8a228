"""Published formats and plain folders, read into label rows with provenance."""

from policyguard.train.importers.formats import FORMATS
from policyguard.train.importers.record import Validation, validate_rows
from policyguard.train.importers.run import Summary, import_rows

__all__ = ["FORMATS", "Summary", "Validation", "import_rows", "validate_rows"]
