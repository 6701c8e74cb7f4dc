"""What serves those who work on the project, and does not ship: pages made from the program, and sample checkpoints."""
