"""The only room that knows the Trainer: modules, encoding, EMA, LR schedules, and the callbacks that watch a run."""
