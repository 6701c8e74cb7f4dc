"""Training that starts from converted weights: IFViT's two modules (arXiv 2404.08237) in a loop that one sees whole.

Read `loop` first. It needs the extra `train`, and is imported by name; importing `loftr2flax` loads none of it.
"""
