"""A mapping and a checkpoint's headers become an immutable plan, checked in full; running it is dull."""

from loftr2flax.plan.build import Wishes as Wishes
from loftr2flax.plan.build import build_plan as build_plan
from loftr2flax.plan.moves import Move as Move
from loftr2flax.plan.moves import Piece as Piece
from loftr2flax.plan.moves import Plan as Plan
from loftr2flax.plan.run import is_plain as is_plain
from loftr2flax.plan.run import run_move as run_move
from loftr2flax.plan.scope import PrefixNotFound as PrefixNotFound
