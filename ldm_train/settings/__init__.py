"""The settings of each command: composed from `conf/`, checked, and turned into constructors."""
