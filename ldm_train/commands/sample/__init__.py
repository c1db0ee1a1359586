"""Draw pictures for prompts with a trained run."""
