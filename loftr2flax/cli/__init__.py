"""The command line: options in, text out, one file a verb. The only place that prints, and that ends the process."""

from loftr2flax.cli.app import main as main
