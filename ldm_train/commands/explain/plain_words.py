"""What the parts of a page mean, in sentences that are true of the run's settings."""

from math import inf, isfinite, log, prod

from ldm_train.commands.explain.explanation import Explanation
from ldm_train.commands.explain.preview import ExplainedPicture
from ldm_train.reports.axes import format_number

SD_NUMBERS = 786_432, 16_384  # of a picture of 512 x 512 pixels, and of Stable Diffusion's latents of it
UNSEEN = 1e-6  # of a difference, which rounding may make

PREDICTIONS = {
    "noise": "its network predicts the noise that was added",
    "velocity": (
        "its network predicts the velocity, alpha times the noise minus sigma times the clean latents: nearly the noise "
        "where there is little noise, and nearly the clean latents, with the sign changed, where there is hardly "
        "anything else"
    ),
    "clean": "its network predicts the clean latents",
    "flow": "its network predicts the noise minus the clean latents, the direction in which the noisy latents move with t",
}
HARDLY_ANY = 0.01  # of alpha at the end of a schedule: less cannot be seen in the noise


def count_numbers(one: ExplainedPicture) -> tuple[int, int]:
    """Return how many numbers the picture and its latents have."""
    return prod(one.picture.image.shape[1:]), prod(one.picture.latents.shape[1:])


def say_latents(one: ExplainedPicture) -> str:
    """Say why there are latents, with the run's own numbers."""
    pixels, latents = count_numbers(one)
    height, width = one.picture.image.shape[2:]
    large, small = (f"{number:,}" for number in SD_NUMBERS)
    if one.generation.autoencoder.factor == 1 and pixels == latents:
        return one.named(
            f"This run's latents are as large as its pictures of {height} x {width} pixels: {pixels:,} numbers. Stable "
            f"Diffusion's autoencoder makes {small} of the {large} numbers of 512 x 512 pixels, and so "
            "all steps are cheaper."
        )
    size = " x ".join(map(str, one.picture.latents.shape[1:]))
    return one.named(
        f"The picture has {height} x {width} pixels of 3 colours: {pixels:,} numbers. Its latents have {size} = "
        f"{latents:,} numbers, {format_number(pixels / latents)} times fewer: the autoencoder leaves out fine detail, and "
        "its decoder makes it up again. Everything that follows is done with the latents, which takes less time and "
        f"memory. Stable Diffusion at 512 x 512 pixels has {small} instead of {large}."
    )


def say_schedule(one: ExplainedPicture) -> str:
    """Say how noise is added, and what is left of the picture at the end."""
    end, shown = one.forward[-1].point, len(one.forward)
    half = next((step.point for step in one.forward if step.point.ratio >= 1), end)
    first = (
        f"The schedule {one.names['schedule']} mixes the picture with noise: alpha times the picture plus sigma times "
        f"noise. Here are {shown} of its points of time, from t = 0, the picture, to t = {format_number(end.t)}. Of "
        f"these, t = {format_number(half.t)} is the first with as much noise as picture, or more. "
        "The noise is the same at all of them. "
    )
    if end.alpha == 0:
        last = "At the end alpha is 0: nothing of the picture is left, and drawing starts from what training has seen."
    elif end.alpha == 1:
        most = format_number(end.sigma)
        last = f"alpha stays 1, and noise is only added: at the end {most} times as much as there is picture."
    elif end.alpha < HARDLY_ANY:
        last = f"At the end alpha is {format_number(end.alpha)}: hardly anything of the picture is left."
    else:
        last = (
            f"At the end alpha is still {format_number(end.alpha)}, so training never sees pure noise, from which drawing "
            "starts. What is left there is mostly the picture's mean brightness. So such a schedule tends to draw "
            "pictures of middling brightness, too grey for a dark or a bright one; schedule.zero_terminal_snr=true"
            f"{', with prediction=velocity,' if one.names['prediction'] == 'noise' else ''} ends in pure noise."
        )
    return one.named(first + last)


def say_prediction(one: Explanation) -> str:
    """Say what the network predicts, and how noise and picture follow from it."""
    middle = "the mean" if one.trained.config.error == "squared" else "near the mean"
    return one.named(
        f"The network is given the noisy latents, the time and the prompt. In this run {describe_prediction(one)}. Together "
        "with the noisy latents that says both what the noise is and what the clean latents are, the clean estimate. The "
        f"best estimate is {middle} of all pictures that could be beneath the noise: blurred where there is much noise, "
        "sharp where there is little."
    )


def say_target(one: ExplainedPicture) -> str:
    """Say what a network would be taught."""
    return one.named(
        "Training shows a network noisy latents, the time and the caption, and with them the right answer, which is known "
        f"because the noise was added on purpose. With these settings {describe_prediction(one)}. Move the slider to see "
        "how the answer changes with the noise."
    )


def describe_prediction(one: ExplainedPicture) -> str:
    """Return what the network predicts, as a clause."""
    name = one.names["prediction"]
    scaled = ""
    if one.generation.schedule.sigma_data is not None and name == "velocity":
        scaled = " (alpha and sigma are scaled here so that their squares sum to 1)"
    return PREDICTIONS.get(name, f"its network predicts what the class {name} defines") + scaled


def say_tokens(one: ExplainedPicture) -> str:
    """Say how the prompt is read; nothing if no text is."""
    tokens = one.tokens
    if tokens is None:
        return ""
    count, cut = tokens.count, max(0, tokens.count - tokens.capacity)
    end = f"The last {cut} tokens are cut: the network never sees them." if cut else "All of it is read."
    return one.named(
        f"A network reads no letters. A text encoder splits the prompt into {count} token{'s' * (count != 1)} of "
        f"{len(tokens.words)} word{'s' * (len(tokens.words) != 1)}: a frequent word is one token, a rare one several. Each "
        f"token stands for a vector of {tokens.width} numbers. The context has {tokens.places} places, of which "
        f"{tokens.capacity} are for tokens and the others for the start and the end. {end} "
        "ldm-train tokens shows which tokens are near each other."
    )


def say_errors(one: Explanation) -> str:
    """Say what the curves of the errors show."""
    errors = one.errors
    worst = max(range(len(errors.noise)), key=lambda number: _finite(errors.noise[number]))
    middle = len(errors.noise) // 2
    without = _finite(errors.noise_unprompted[middle])
    gain = 1 - _finite(errors.noise[middle]) / without if without else 0.0
    grows = "The error of the clean estimate grows with the noise. " if errors.clean[-1] > errors.clean[0] else ""
    prompt = (
        f"with its prompt the error of the noise is {gain:.1%} smaller than without one"
        if gain > 0
        else "the prompt does not make the error of the noise smaller"
    )
    return one.named(
        f"The error of the noise is largest at t = {format_number(errors.points[worst].t)}; of a network that predicts no "
        f"noise at all it would be about 1. {grows}At t = {format_number(errors.points[middle].t)}, {prompt}."
    )


def say_reverse(one: Explanation) -> str:
    """Say how the picture is drawn."""
    steps, sampler, guided = one.trained.recipe.steps, one.names["sampler"], ""
    if one.names["guidance"] == "classifier_free" and one.guidance_scale is not None and one.guidance_scale != 1:
        effect = "exaggerates" if one.guidance_scale > 1 else "weakens"
        guided = f", and guidance.scale={one.guidance_scale:g} {effect} what the prompt changes"
    return one.named(
        f"Drawing starts from pure noise. In each of {steps} steps the network estimates the clean latents, and the "
        f"sampler {sampler} goes a part of the way there{guided}. The first steps decide the layout, while there is much "
        "noise; the last ones the details."
    )


def say_prompt_effect(one: Explanation) -> str:
    """Say where in time the prompt matters most."""
    changes = [_finite(step.clean_difference) for step in one.reverse.steps]
    total, half = sum(changes), len(changes) // 2
    if max(_finite(step.noise_difference) for step in one.reverse.steps) < UNSEEN:
        return one.named("The network says the same with this prompt and without one: it does not use the prompt.")
    most, share = changes.index(max(changes)) + 1, sum(changes[:half]) / (total or 1)
    guidance = ""
    if one.names["guidance"] == "classifier_free":
        guidance = (
            " Classifier-free guidance multiplies this difference: it takes what the network says without a prompt, plus "
            "guidance.scale times the difference."
        )
    halves = f"; the first {half} steps have {share:.0%} of the change in all of them" if half else ""
    return one.named(f"The prompt changes the clean estimate most in step {most} of {len(changes)}{halves}.{guidance}")


def say_attention(one: Explanation) -> str:
    """Say what the maps of the words show."""
    attention = one.reverse.attention
    if attention is None:
        return ""
    shares = attention.combined.mean((0, 2, 3)).tolist()
    around = shares[0] + shares[-1]
    return one.named(
        "At each place, the network shares its attention among the tokens of the prompt: all shares at a place sum to 1. "
        "The maps show the share of each word, averaged over the heads and layers that attend to words; yellow is the "
        f"largest value of that word. {around:.0%} of the attention is for the tokens around the words, which stand for "
        "the prompt as a whole, or for nothing at all. The first frame is the mean of all steps; the slider goes on "
        "with each step."
    )


def say_variations(one: Explanation) -> str:
    """Say what to look for in the rows of pictures."""
    scale = ""
    if one.names["guidance"] == "classifier_free" and one.guidance_scale is not None:
        scale = (
            " A guidance scale of 0 ignores the prompt, 1 follows it, and more exaggerates it, up to garish colours; this "
            f"run draws with {one.guidance_scale:g}."
        )
    return one.named(
        "All of these start from the same noise, so what differs comes from what was changed. The noise decides much of "
        f"the layout, and the prompt what is drawn.{scale} With few steps, each goes far towards a mean of pictures, "
        "which is a blur. From some number of steps on, more of them change little, unless the sampler "
        "adds noise in each, as ddpm does."
    )


def format_log_snr(ratio: float) -> str:
    """Return ln(alpha^2 / sigma^2) of a ratio sigma / alpha."""
    return "infinite" if ratio == 0 else "-infinite" if ratio == inf else format_number(-2 * log(ratio))


def _finite(value: float) -> float:
    return value if isfinite(value) else 0.0
