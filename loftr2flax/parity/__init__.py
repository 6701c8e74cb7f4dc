"""Whether two networks compute the same function, judged by torch's own rounding error."""

from loftr2flax.parity.values import Coverage as Coverage
from loftr2flax.parity.values import Culprit as Culprit
from loftr2flax.parity.values import GradientCheck as GradientCheck
from loftr2flax.parity.values import Judgement as Judgement
from loftr2flax.parity.values import MatchComparison as MatchComparison
from loftr2flax.parity.values import PairRun as PairRun
from loftr2flax.parity.values import ParityReport as ParityReport
from loftr2flax.parity.values import StageRow as StageRow
from loftr2flax.parity.values import WeightsCheck as WeightsCheck
from loftr2flax.parity.verify import Trial as Trial
from loftr2flax.parity.verify import verify_golden as verify_golden
from loftr2flax.parity.verify import verify_parity as verify_parity
