"""Published formats and plain folders, read into label rows with provenance."""

from policyguard.train.importers.formats import FORMATS
from policyguard.train.importers.run import Summary, import_rows

__all__ = ["FORMATS", "Summary", "import_rows"]
