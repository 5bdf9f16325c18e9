"""POT: node compactness, a lower bound of how well a contrastive loss serves every node.

Random augmentations leave some nodes badly trained. POT bounds, for every node i, the least that
its similarity to its own second view can exceed the mean similarity to those of others:

    f_i = <z_i, w_i>,   w_i = N / (N - 1) s_i - 1 / (N - 1) sum_j s_j,   s_j = z'_j / |z'_j|

with z and z' the vectors of the two views, over the N nodes of a batch. (w_i is s_i minus the mean
of the others'.) The regularizer pushes the bounds up: `compactness_loss`.

**Why the score form is just f_i here.** The paper bounds an encoder ``act(A act(A X W1) W2)`` by
CROWN: every activation is replaced by a line ``slope x + intercept``, which turns the bound into

    score_i = [A (A X V1_i + b1_i) + b2_i]
    V2_i = (slope_2 * w_i) W2^T,   V1_i = (slope_1 * V2_i) W1^T

taken at the sampled augmentation A (the official code does not minimise over A). LightGCN and its
kin propagate without weights and activations: slope 1, intercept 0, W = identity. So V1_i = V2_i =
w_i, b = 0, and score_i = <[A A X]_i, w_i> = <z_i, w_i> = f_i; likewise for a weighted sum of
layers, which is linear as well.

**What is added: the worst case.** An augmentation drops at most q_i edges of node i. One layer
with symmetric normalization gives z_i = sum_j c_ij with c_ij = e_j / sqrt(d_i d_j). If s of its
edges go, d_i becomes d_i - s, the degrees of the neighbours that stay do not change, and those
that go matter no more. Hence, with the contributions t_ij = <c_ij, w_i> sorted to fall,

    worst f_i = base_i + min_{0 <= s <= q_i} sqrt(d_i / (d_i - s)) R_i(s)
    R_i(s) = sum_j t_ij - sum_{r <= s} t_i(r)

exactly: for every s the least sum remains when the s largest go. ``base_i`` is what these edges do
not touch, say the node's own row in the mean over layers. It is exact for one layer while all
other edges stay; in deeper layers it says what the drop at i itself can do, with the vectors of
neighbours as given. (Bounds by intervals over all edges at once are never above 0 without
self-loops, since every edge may vanish: they cannot tell nodes apart.)

Stability: experimental
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def compactness_directions(views: Tensor) -> Tensor:
    """Directions w: of every node, its scaled second view minus the mean of the others'.

    Args:
        views: z', the second views of the nodes of a batch, each node once.

    Raises:
        ValueError: There are fewer than two nodes.

    Shape:
        - views, output: (N, D)

    Example:
        >>> compactness_directions(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """
    if views.dim() != 2 or len(views) < 2:
        raise ValueError(
            f"expected the vectors of at least two nodes (N, D), got {tuple(views.shape)}."
        )
    scaled = functional.normalize(views, dim=1)
    return (len(views) * scaled - scaled.sum(0)) / (len(views) - 1)


def node_compactness(first: Tensor, second: Tensor) -> Tensor:
    """Compactness f of all nodes: the score of POT for an encoder without weights and activations.

    Args:
        first: z, one view of the nodes of a batch.
        second: z', the other view.

    Raises:
        ValueError: The shapes differ, or there are fewer than two nodes.

    Shape:
        - first, second: (N, D)
        - output: (N,)

    Source:
        Yu et al., "Provable Training for Graph Contrastive Learning", NeurIPS 2023. Differs: its
        CROWN bound at the sampled augmentation, which is this value (see the module).

    Example:
        >>> node_compactness(torch.tensor([[3.0, 1.0], [0.0, 1.0]]), torch.eye(2))
        tensor([2., 1.])
    """
    if first.shape != second.shape:
        raise ValueError(
            f"expected two views of one shape, got {tuple(first.shape)} and {tuple(second.shape)}."
        )
    return (first * compactness_directions(second)).sum(1)


def compactness_loss(compactness: Tensor) -> Tensor:
    """Mean of ``-ln sigmoid(f_i)``: pushes every bound above 0.

    A model adds it to its contrastive loss as ``(1 - kappa) contrastive + kappa pot``.

    Args:
        compactness: Of nodes, from `node_compactness` or `worst_compactness`.

    Shape:
        - compactness: (N,)
        - output: scalar

    Source:
        POT, NeurIPS 2023, binary cross entropy of the bounds with label 1.

    Example:
        >>> compactness_loss(torch.tensor([0.0, 0.0]))
        tensor(0.6931)
    """
    return functional.softplus(-compactness).mean()


def pot_score(first: Tensor, second: Tensor) -> Tensor:
    """`compactness_loss` of both directions, averaged.

    Args:
        first: One view of the nodes of a batch.
        second: The other view.

    Raises:
        ValueError: The shapes differ, or there are fewer than two nodes.

    Shape:
        - first, second: (N, D)
        - output: scalar

    Source:
        POT, NeurIPS 2023, as its code adds it to GRACE.

    Example:
        >>> pot_score(torch.eye(2), torch.eye(2))  # f = 1 everywhere
        tensor(0.3133)
    """
    there = compactness_loss(node_compactness(first, second))
    return (there + compactness_loss(node_compactness(second, first))) / 2


def drop_budget(degrees: Tensor, rate: float) -> Tensor:
    """How many edges of each node an augmentation may drop: ``round(rate d)``, but not the last.

    Args:
        degrees: d.
        rate: Share of edges that are dropped.

    Raises:
        ValueError: ``rate`` is not from 0 to 1.

    Shape:
        - degrees, output: (N,) int64

    Source:
        POT, NeurIPS 2023: ``min(max(d - 2, 0), round(rate d))`` in its code, where d counts a
        self-loop; there is none here, so one edge stays as well.

    Example:
        >>> drop_budget(torch.tensor([0, 1, 2, 10]), 0.9).tolist()
        [0, 0, 1, 9]
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"`rate`: expected a share, from 0 to 1, got {rate}.")
    wanted = (rate * degrees.double()).round().long()
    return torch.minimum(wanted, (degrees - 1).clamp(min=0))


def worst_compactness(
    contributions: Tensor,
    nodes: Tensor,
    budgets: Tensor,
    base: Tensor | None = None,
    renormalize: float = 0.5,
) -> Tensor:
    """The least f of every node over all ways to drop at most its budget of edges.

    See the module for the derivation. One sort of the edges, no dense matrix.

    Args:
        contributions: t, of every edge to the node that it reaches: its normalized weight times
            the product of the neighbour's vector with w of the node. All edges of a node.
        nodes: Position of that node, from 0.
        budgets: q.
        base: What the edges do not touch; None for 0.
        renormalize: Weights of the edges that stay grow by ``(d / (d - s))`` to this power: 0.5
            for symmetric normalization, 1 for means, 0 where weights stay as they are.

    Raises:
        ValueError: Shapes do not fit, or ``renormalize`` is below 0.

    Shape:
        - contributions, nodes: (E,), float and int64
        - budgets, base, output: (N,)

    Example:
        >>> shares, nodes = torch.tensor([3.0, -1.0, 1.0]), torch.tensor([0, 0, 1])
        >>> worst_compactness(shares, nodes, torch.tensor([1, 0]), renormalize=0.0)
        tensor([-1.,  1.])
    """
    size = len(budgets)
    if (
        contributions.dim() != 1
        or nodes.shape != contributions.shape
        or (base is not None and base.shape != budgets.shape)
    ):
        raise ValueError(
            "expected contributions and nodes (E,), budgets and base (N,), got "
            f"{tuple(contributions.shape)}, {tuple(nodes.shape)}, {tuple(budgets.shape)} and "
            f"{None if base is None else tuple(base.shape)}."
        )
    if renormalize < 0:
        raise ValueError(f"`renormalize`: expected a power of at least 0, got {renormalize}.")
    if len(nodes) and not 0 <= int(nodes.min()) <= int(nodes.max()) < size:
        raise ValueError(
            f"`nodes`: expected positions from 0 to {size - 1}, got {int(nodes.min())} to "
            f"{int(nodes.max())}."
        )
    # By node, then falling: the first s edges of a node are the ones to drop.
    order = contributions.detach().argsort(descending=True)
    order = order[nodes[order].argsort(stable=True)]
    owner = nodes[order]
    degrees = torch.bincount(nodes, minlength=size)
    starts = degrees.cumsum(0) - degrees
    dropped = torch.arange(1, len(order) + 1, device=nodes.device) - starts[owner]
    # In float64: differences of a running sum over all edges.
    sums = functional.pad(contributions[order].double().cumsum(0), (1, 0))
    rest = sums[starts + degrees][owner] - sums[1:]
    kept = (degrees[owner] - dropped).clamp(min=1)
    growth = (degrees[owner].double() / kept) ** renormalize
    values = torch.where(dropped <= budgets[owner], growth * rest, torch.inf)
    whole = sums[starts + degrees] - sums[starts]
    worst = whole.scatter_reduce(0, owner, values, "amin").to(contributions.dtype)
    return worst if base is None else base + worst
