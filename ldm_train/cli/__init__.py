"""The command line: find the command, compose its settings, run it or a sweep of it, print what is wrong."""
