"""The table of what scripts/benchmark_data.py and scripts/chaos_encode.py measured."""

from manual.measured import link_result, look_up, make_table, number, read_result


def caches() -> str:
    """The latent cache.

    Shares above 100 % are the noise of CPU times on this machine.
    """
    rows = []
    for name, mode, what in (
        ("data_encode", "encode", "the quick start's autoencoder"),
        ("data_encode_large", "large", "an autoencoder of Stable Diffusion's size"),
    ):
        count = f"{number(name, 'pictures'):,.0f}"
        shares = [number(name, "shares", place) for place in range(int(number(name, "rounds")))]
        rows.append(
            [
                f"CPU time of only decoding and {what}, as a share of the CPU time of encoding {count} pictures "
                "(512x512 to 256x256)",
                f"{number(name, 'share'):.1%} ({min(shares):.1%} to {max(shares):.1%})",
                link_result(name, f"benchmark_data.py {mode}"),
            ]
        )
    few, most = (f"{number('data_memory', 'pictures', place):,.0f}" for place in (0, 1))
    rows.append(
        [
            f"memory of encoding for each picture (8x8 pixels, a caption of 38 characters): {most} compared with {few}",
            f"{number('data_memory', 'bytes_per_picture'):,.0f} bytes",
            link_result("data_memory", "benchmark_data.py memory"),
        ]
    )
    many = ("data_read", "100000 records")
    grown = (number(*many, "warm", "after_bytes") - number("data_read", "1000 records", "warm", "after_bytes")) / 2**20
    rows += [
        [
            "reading shuffled batches of 64 (latents 4x32x32, embeddings 77x768) of 100,000 examples (13.5 GB) "
            "in the page cache, one process",
            f"{number(*many, 'warm', 'samples_per_s'):,.0f} examples/s",
            link_result("data_read", "benchmark_data.py read"),
        ],
        [
            "the same, read from the disk for the first time",
            f"{number(*many, 'cold', 'samples_per_s'):,.0f} examples/s",
            "the same",
        ],
        ["anonymous memory: 100,000 examples compared with 1,000", f"{grown:+.1f} MiB", "the same"],
    ]
    rows += [
        describe_kills("data_faults", "pictures"),
        [
            "encoding again after ten pictures changed",
            f"{number('data_faults', 'ten_changed', 'encoded'):.0f} encoded, same bytes as a new cache",
            "the same",
        ],
        [
            "encoding again after no change",
            f"0 encoded, {number('data_faults', 'ten_changed', 'unchanged_s'):.1f} s",
            "the same",
        ],
        describe_kills("data_faults_conditions", "pictures with masks and small pictures for two conditions"),
    ]
    return make_table(["what", "measured", "by"], rows)


def describe_kills(name: str, what: str) -> list[str]:
    """Return the row of a campaign of kills."""
    kills, failures = look_up(name, "campaign", "kills"), read_result(name)["failures"]
    assert isinstance(kills, dict)
    assert isinstance(failures, list)
    total = sum(number(name, "campaign", "kills", kind) for kind in kills)
    count = f"{number(name, 'pictures'):,.0f}"
    return [
        f"{total:.0f} kills of two processes that encode {count} {what}: same bytes as without kills",
        f"no: {len(failures)} failures" if failures else "yes",
        link_result(name, "chaos_encode.py"),
    ]
