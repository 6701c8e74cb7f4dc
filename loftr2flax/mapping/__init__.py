"""The mapping language: text becomes immutable rules. Nothing here knows of files of tensors."""

from loftr2flax.mapping.parse import load_mapping as load_mapping
from loftr2flax.mapping.parse import parse_mapping as parse_mapping
from loftr2flax.mapping.rules import Direction as Direction
from loftr2flax.mapping.rules import Rule as Rule
from loftr2flax.mapping.rules import TensorMapping as TensorMapping
from loftr2flax.mapping.shipped import find_mapping as find_mapping
from loftr2flax.mapping.shipped import is_shipped as is_shipped
from loftr2flax.mapping.shipped import mappings_folder as mappings_folder
from loftr2flax.mapping.shipped import shipped_names as shipped_names
