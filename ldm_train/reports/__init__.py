"""Reports that people read: one self-contained HTML page, by one template."""
