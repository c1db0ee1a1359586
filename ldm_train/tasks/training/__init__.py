"""What `train` alone assembles."""
