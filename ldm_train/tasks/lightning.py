"""What Lightning says at every start and nobody needs to read."""

import logging
import warnings


def quiet() -> None:
    """Keep Lightning's warnings; drop its tips and its remarks about choices that were made here on purpose."""
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="Couldn't infer the batch indices.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
