"""What a shell completes a word to, where typer cannot know it."""

from __future__ import annotations


def mappings(incomplete: str) -> list[str]:
    """Names of shipped mappings, and YAML files; a shell that is given neither offers files of any kind."""
    import glob

    from loftr2flax.mapping import shipped_names

    names = [name for name in shipped_names() if name.startswith(incomplete)]
    return names + sorted(path for end in ("yaml", "yml") for path in glob.glob(f"{glob.escape(incomplete)}*.{end}"))


def published(incomplete: str) -> list[str]:
    """Names of published checkpoints."""
    from loftr2flax.fetch.published import PUBLISHED

    return [name for name in PUBLISHED if name.startswith(incomplete)]
