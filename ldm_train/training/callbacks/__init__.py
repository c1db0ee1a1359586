"""Callbacks that watch a run without changing it: step log, progress, health, pictures; and early stopping."""
