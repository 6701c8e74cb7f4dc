"""What a checkpoint holds, and what to do with it."""

from loftr2flax.inspection.look import inspect_checkpoint as inspect_checkpoint
from loftr2flax.inspection.values import Inspection as Inspection
