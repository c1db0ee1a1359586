"""Optimizers, LR schedules, gradients, micro-batches, and sharding over processes."""
