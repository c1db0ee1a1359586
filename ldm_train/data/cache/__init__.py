"""The latent cache: plan its contents, write parts, merge them into shards, and read them."""
