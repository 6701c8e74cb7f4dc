"""loftr2flax turns PyTorch checkpoints into Flax checkpoints, and proves that they mean the same."""
