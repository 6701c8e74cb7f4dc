"""The command line: options in, text out, one file a verb. The only place that prints, and that ends the process."""

import gc
import os
import sys

# A verb is over in a blink, and its start is most of it. numpy's linear algebra starts threads when numpy is imported,
# which takes longer than the import itself, and no verb multiplies matrices with numpy. The collector looks through all
# that is being imported again and again, and finds nothing to collect. And threads that hand leaves to one another
# need not wait five milliseconds for their turn.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
gc.set_threshold(200_000)
sys.setswitchinterval(0.0005)

from loftr2flax.cli.app import main as main  # noqa: E402
from loftr2flax.cli.app import program as program  # noqa: E402
