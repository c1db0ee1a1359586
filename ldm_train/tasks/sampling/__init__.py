"""What `sample` draws, and how."""
