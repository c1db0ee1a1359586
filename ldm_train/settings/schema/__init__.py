"""The settings of every command: type, default, range, help, and whether a continued run may change each."""
