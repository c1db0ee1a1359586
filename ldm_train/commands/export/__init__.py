"""Write a run's trained weights in the layouts that other programs read."""
