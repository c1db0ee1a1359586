"""Generate the parts of the manual that are read from the configs, the package and the measured results."""
