"""``python -m loftr2flax``."""

from loftr2flax.cli import program

if __name__ == "__main__":
    program()
