"""The functions for Python programs and notebooks, which `import ldm_train` gives by their names."""
