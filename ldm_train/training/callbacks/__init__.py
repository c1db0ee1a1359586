"""What watches a run without disturbing it: the step's log, progress, checkpoints, pictures, validation."""
