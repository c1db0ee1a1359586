"""What a config's parts are made into."""
