"""Published formats and plain folders, read into label rows with provenance."""

from policyguard.train.importers.run import FORMATS, Summary, import_rows
from policyguard.train.importers.validate import Validation, validate_rows

__all__ = ["FORMATS", "Summary", "Validation", "import_rows", "validate_rows"]
