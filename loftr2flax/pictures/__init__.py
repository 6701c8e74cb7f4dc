"""Photographs in, drawings out. Needs Pillow (extra `parity`); nothing here knows a checkpoint or a network.

Conventions: sizes are (width, height) and points are (x, y), in pixels; (0, 0) is the centre of the first pixel, as in
OpenCV and scikit-image.
"""

from loftr2flax.pictures.drawing import Drawing as Drawing
from loftr2flax.pictures.drawing import Panel as Panel
from loftr2flax.pictures.drawing import draw_matches as draw_matches
from loftr2flax.pictures.photograph import Photograph as Photograph
from loftr2flax.pictures.photograph import read_photograph as read_photograph
