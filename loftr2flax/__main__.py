"""``python -m loftr2flax``."""

from loftr2flax.cli import main

if __name__ == "__main__":
    main()
