"""A parity report as one HTML file that needs nothing else: no script, no network, images and style inside.

from loftr2flax.report import write_report

write_report(report, "report.html")
"""

from loftr2flax.report.page import render_report as render_report
from loftr2flax.report.page import write_report as write_report
