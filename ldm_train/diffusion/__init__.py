"""The mathematics of diffusion: a schedule, a prediction, a loss, guidance. A network is just a callable here."""
