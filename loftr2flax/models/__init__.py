"""Flax networks that come with the package. Importing one imports jax; importing `loftr2flax` does not."""
