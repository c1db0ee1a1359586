"""Write a page that shows on one picture what a run does."""
