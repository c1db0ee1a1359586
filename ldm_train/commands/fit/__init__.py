"""One command from a folder to pictures: choose what fits data, machine and minutes, and run the ordinary commands."""
