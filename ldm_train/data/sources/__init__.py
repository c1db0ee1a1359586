"""Where captioned pictures come from: one file a kind."""
