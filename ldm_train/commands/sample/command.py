"""`ldm-train sample`: draw prompts into PNG files, and combine them in a grid, an X/Y plot or a strip."""

from ldm_train.assembly.picture_folder import PictureFolder
from ldm_train.assembly.prompts import read_prompts
from ldm_train.assembly.quality_warnings import warn_of_lossy_run
from ldm_train.commands.sample.prompt_grid import draw_grid
from ldm_train.commands.sample.prompt_line import run_prompt_line
from ldm_train.commands.sample.strip import draw_strip
from ldm_train.commands.sample.xy_plot import draw_plots
from ldm_train.settings.plot_axes import has_axes
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.util.messages import warn


def run(settings: SampleSettings) -> None:
    """Draw the prompts of the settings into the folder `out`, or those that are typed if there are none.

    Raises:
        ValueError: the run cannot be read, the settings cannot be drawn with, or a picture contains NaN or infinity.
    """
    if settings.attention and (has_axes(settings) or settings.interpolate is not None):
        raise ValueError("attention=true goes with pictures of prompts, not with x and y axes or interpolate; leave it out")
    if settings.upscaler is not None and (has_axes(settings) or settings.interpolate is not None):
        raise ValueError("upscaler=… goes with pictures of prompts, not with x and y axes or interpolate; leave it out")
    if settings.prompts is None:
        if has_axes(settings) or settings.interpolate is not None:
            raise ValueError("x and y axes and interpolate need prompts=…")
        run_prompt_line(settings)
        return
    prompts = read_prompts(settings.prompts)
    with PictureFolder(settings) as folder:
        if has_axes(settings):
            drawn = draw_plots(settings, prompts, folder)
        elif settings.interpolate is not None:
            drawn = draw_strip(settings, prompts, folder)
        else:
            drawn = draw_grid(settings, prompts, folder)
        for warning in warn_of_lossy_run(str(settings.run_dir)):
            warn(warning)
        folder.finish(drawn)
