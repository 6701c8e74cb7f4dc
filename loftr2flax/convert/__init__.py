"""What `convert` does, as functions that return values."""

from loftr2flax.convert.fitting import fitting_plans as fitting_plans
from loftr2flax.convert.job import Job as Job
from loftr2flax.convert.job import convert_checkpoint as convert_checkpoint
from loftr2flax.convert.job import plan_conversion as plan_conversion
from loftr2flax.convert.job import prepared as prepared
from loftr2flax.convert.values import Conversion as Conversion
from loftr2flax.convert.values import Order as Order
