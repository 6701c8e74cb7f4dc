"""Versions, threads, precisions and flags: what a verdict depends on beside the weights and the inputs."""

from __future__ import annotations

import os
import sys
from importlib import import_module, metadata
from typing import Any

from loftr2flax.errors import EnvironmentFault
from loftr2flax.version import VERSION

_VARIABLES = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that change numbers or the order of sums; those that are set are told."""


def require(*packages: str) -> None:
    """Imports what a run needs.

    Raises:
      EnvironmentFault: a package is not installed; the hint names the extra that has it.
    """
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            message = f"verify parity runs both networks, and {package} cannot be imported: {error}"
            raise EnvironmentFault(message, "pip install 'loftr2flax[parity]'") from None


def environment() -> dict[str, str]:
    """What there is, in the order in which it is printed; torch only where it has been loaded."""
    found = {"loftr2flax": VERSION, "python": sys.version.split()[0]}
    for package in ("numpy", "torch", "kornia", "jax", "jaxlib", "flax"):
        if sys.modules.get(package) is not None:
            found[package] = metadata.version(package)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        found["torch threads"] = str(torch.get_num_threads())
        found["torch float32 matmul precision"] = torch.get_float32_matmul_precision()
        found["torch mkldnn"] = str(torch.backends.mkldnn.is_available())
    jax: Any = sys.modules.get("jax")
    if jax is not None:
        found["jax backend"] = f"{jax.default_backend()}, {jax.device_count()} device(s)"
        found["jax matmul precision"] = "highest"
        found["jax x64"] = str(bool(jax.config.jax_enable_x64))
    found["cpus"] = str(os.cpu_count())
    return found | {name: os.environ[name] for name in _VARIABLES if name in os.environ}
