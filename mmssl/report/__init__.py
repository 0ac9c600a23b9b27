"""One self-contained page about runs: what they hid and predicted, how much they learned, what it is good for."""

from mmssl.report.page import write_report

__all__ = ["write_report"]
