"""The verbs of `ldm-train`: each file assembles the rooms from a config and runs them. The only room that knows Hydra."""
