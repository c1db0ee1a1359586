"""What people write: configs composed, checked, described."""
