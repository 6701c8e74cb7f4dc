"""LoFTR's two sides as networks that can be judged, and the mistakes that are known to be made in it."""
