"""The noise schedules: the interface, and the schedules by name."""
