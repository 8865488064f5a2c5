"""What candidates have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """What is to be read of K candidates: every proper prefix once, however many candidates begin with it."""

    tokens: tuple[int, ...]
    """(N,) the last token of each prefix."""
    depth: tuple[int, ...]
    """(N,) tokens before it in the candidate."""
    ancestors: tuple[tuple[int, ...], ...]
    """(N,) nodes that each node sees, itself included."""
    first: tuple[int, ...]
    """(K,) first token of each candidate."""
    edges: tuple[tuple[int, int, int], ...]
    """(candidate, node, token): what the candidate's log-probability is summed over, beside its first token."""

    @classmethod
    def of(cls, candidates: Sequence[Sequence[int]]) -> PrefixTree:
        """Build the tree of candidates given as token ids, none of them empty."""
        nodes: dict[tuple[int, ...], int] = {}
        ancestors: list[tuple[int, ...]] = []
        edges = []
        for k, ids in enumerate(candidates):
            above: tuple[int, ...] = ()
            for end in range(1, len(ids)):
                prefix = tuple(ids[:end])
                if prefix not in nodes:
                    nodes[prefix] = len(nodes)
                    ancestors.append((*above, nodes[prefix]))
                above = ancestors[nodes[prefix]]
                edges.append((k, nodes[prefix], ids[end]))
        tokens, depth = tuple(prefix[-1] for prefix in nodes), tuple(len(prefix) - 1 for prefix in nodes)
        return cls(tokens, depth, tuple(ancestors), tuple(ids[0] for ids in candidates), tuple(edges))

    def __len__(self) -> int:
        return len(self.tokens)
