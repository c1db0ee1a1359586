"""What decides how fast a CPU multiplies, and by which routines, so in which bits: its vector units and bfloat16."""


def describe_cpu() -> str:
    """Return the kind of this CPU in words, such as "cpu with AVX512 and bfloat16"."""
    import torch

    words = [torch.backends.cpu.get_cpu_capability(), *["bfloat16"] * multiplies_bfloat16()]
    return f"cpu with {' and '.join(words)}"


def multiplies_bfloat16() -> bool:
    """Return whether this CPU has instructions that multiply bfloat16, twice as fast as float32, by its flags."""
    import torch

    flags: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of PyTorch do not say
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))
