"""What a verb found, item by item, in the forms that CI systems read: GitHub's annotations and JUnit's XML.

from loftr2flax.findings import github, junit, of_diff
found = of_diff(diff_checkpoints("a.npz", "b.npz"))
found.worst, github.commands(found), github.summary(found), junit.document(found)
"""

from loftr2flax.findings.collect import of_diff as of_diff
from loftr2flax.findings.collect import of_error as of_error
from loftr2flax.findings.collect import of_parity as of_parity
from loftr2flax.findings.collect import of_weights as of_weights
from loftr2flax.findings.values import Finding as Finding
from loftr2flax.findings.values import Findings as Findings
