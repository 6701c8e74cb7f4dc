"""The command line: options in, text out, one file a verb. The only place that prints, and that ends the process."""

import os

# numpy's linear algebra starts its threads when numpy is imported, which takes longer than the import itself; no verb
# multiplies matrices with numpy
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from loftr2flax.cli.app import main as main
from loftr2flax.cli.app import program as program
