"""One file for each format: bytes on one side, leaves on the other. Formats know nothing of mappings."""
