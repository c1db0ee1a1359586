"""One folder for each command of `ldm-train`, named as it is typed. A command imports no other command."""
