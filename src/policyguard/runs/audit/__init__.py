"""Audits: a data set of any size, cut into parts, each judged into one Parquet file (docs/audit.md).

Covered: a part counts as done when its file is whole and of this audit, and is done again otherwise, so a
process that is killed loses and doubles nothing; what cannot be read is a row of its own, never left out.
"""
