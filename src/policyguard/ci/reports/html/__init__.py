"""The report as one HTML page, that opens anywhere and fetches nothing."""

from policyguard.ci.reports.html.report import HtmlReport

__all__ = ["HtmlReport"]
