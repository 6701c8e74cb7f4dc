"""Speed and memory as ratios: whole processes, side by side, several runs in turn. ``make bench`` runs them all."""
