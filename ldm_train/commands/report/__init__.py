"""Write one HTML page about one or several runs."""
