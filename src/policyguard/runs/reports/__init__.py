"""Reports on a run over many images, for people and for build servers. docs/reports.md describes each."""

from policyguard.runs.reports.registry import FORMATS, Report, ReportSpec, open_report, parse_report

__all__ = ["FORMATS", "Report", "ReportSpec", "open_report", "parse_report"]
