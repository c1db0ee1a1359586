"""What only the quick start measures: its drawings, and the backgrounds that their captions ask for."""
