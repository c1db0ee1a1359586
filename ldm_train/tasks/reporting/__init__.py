"""What `report` shows."""
