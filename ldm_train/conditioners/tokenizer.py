"""open_clip's tokenizer, for captions of any length."""

from heapq import heapify, heappop, heappush

import open_clip


def merge(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909): join the neighbours of the lowest rank, leftmost first.

    A queue of pairs and a linked list of symbols take O(n log n). The same as joining all pairs of a rank at once, as
    open_clip does, since a symbol's own pair ranks below every pair that it is part of.
    """
    end = len(symbols)
    symbols = [*symbols, ""]  # neither the end nor, as index -1, the start is part of any pair
    before, after = [*range(-1, end)], [*range(1, end + 1), end]

    def rank(left: int) -> int | None:
        return ranks.get((symbols[left], symbols[after[left]]))

    queue = [(number, left) for left in range(end) if (number := rank(left)) is not None]
    heapify(queue)
    while queue:
        number, left = heappop(queue)
        if rank(left) != number:
            continue  # one of the two was joined with another neighbour meanwhile
        right = after[left]
        symbols[left], symbols[right] = symbols[left] + symbols[right], ""
        after[left] = after[right]
        before[after[left]] = left
        for start in (before[left], left):
            if (number_there := rank(start)) is not None:
                heappush(queue, (number_there, start))
    return [symbol for symbol in symbols if symbol]


class Tokenizer(open_clip.SimpleTokenizer):
    """open_clip's, whose own merges take the square of a word's length: here a caption may be one word of any length."""

    def bpe(self, token: str) -> str:
        if token not in self.cache:
            self.cache[token] = " ".join(merge([*token[:-1], token[-1] + "</w>"], self.bpe_ranks))
        return self.cache[token]
