"""Propagation over a graph: one sparse operator that every graph encoder uses.

On the CPU in float32 the products run in ``spmm.c``; elsewhere torch's sparse product does them.

Stability: caller
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import torch
from torch import Tensor

from recsys.errors import ConfigError, DataError
from recsys.graph.gradients import Polynomial, Product, RowSoftmax
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.pattern import Pattern

Norm = Literal["sym", "row", "none"]
Combine = Literal["mean", "sum", "last", "stack"]


@dataclasses.dataclass(frozen=True, eq=False)
class Adjacency:
    """A sparse matrix A that propagates rows: ``adj @ x``. It never changes.

    Edges are in the order of rows, then columns: ``adj.row``, ``adj.col``, ``adj.values``.
    Make one with `bipartite` or `from_edges`.

    Normalizations of weights w (1 by default), with d the sums of a row or a column:
    ``sym`` is ``w_ij / sqrt(d_i d_j)``, ``row`` is ``w_ij / d_i``, ``none`` is ``w_ij``. Nodes
    without edges propagate zeros.

    Args:
        pattern: Where the edges are.
        values: Of every edge, what is multiplied; may require a gradient.
        norm: How ``values`` come from ``weights``.
        weights: Of every edge before the normalization; None for all 1.
        edge_order: Position of every edge in the list it was made from; None for an operator of
            which edges were dropped, or a transpose.
        loops: Whether self-loops were added; those are never dropped.

    Shape:
        - values, weights: (E,)
        - edge_order: (E,) int64

    Example:
        >>> graph = InteractionGraph(2, 1, torch.tensor([0, 1]), torch.tensor([0, 0]))
        >>> adj = Adjacency.bipartite(graph, norm="row")
        >>> adj @ torch.tensor([[2.0], [4.0], [7.0]])
        tensor([[7.],
                [7.],
                [3.]])
    """

    pattern: Pattern
    values: Tensor
    norm: Norm = "none"
    weights: Tensor | None = None
    edge_order: Tensor | None = None
    loops: bool = False

    @classmethod
    def bipartite(
        cls, graph: InteractionGraph, norm: Norm = "sym", self_loops: bool = False
    ) -> Adjacency:
        """The graph of users and items, U + I nodes, users first, edges in both directions.

        Args:
            graph: Its pairs, with their weights where it has any.
            norm: See the class.
            self_loops: Whether every node has itself as a neighbour, with weight 1.
        """
        user, item = graph.user, graph.item + graph.num_users
        nodes = graph.num_users + graph.num_items
        weight = None if graph.weight is None else graph.weight.repeat(2)
        return cls.from_edges(
            torch.cat([user, item]), torch.cat([item, user]), nodes, nodes, weight, norm, self_loops
        )

    @classmethod
    def from_edges(
        cls,
        row: Tensor,
        col: Tensor,
        num_rows: int,
        num_cols: int,
        values: Tensor | None = None,
        norm: Norm = "none",
        self_loops: bool = False,
    ) -> Adjacency:
        """Any edges, also directed or between two kinds of nodes; repeated edges add up.

        Row i of ``adj @ x`` sums over the edges with ``row == i``; messages flow from ``col`` to
        ``row``.

        Args:
            row: Of every edge.
            col: Of every edge.
            num_rows: R.
            num_cols: C.
            values: Weights of the edges; None for all 1. A gradient flows through them where
                ``norm`` is ``none``.
            norm: See the class.
            self_loops: Whether to add ``(i, i)`` with weight 1 for all nodes. Needs R = C.

        Shape:
            - row, col: (E,) integers
            - values: (E,)

        Raises:
            ConfigError: Self-loops of a matrix that is not square, an unknown ``norm``, or a
                normalization of weights that require a gradient.
            DataError: Lengths differ, a number is out of range, or a weight is negative (where
                there is a normalization) or not finite.
        """
        if norm not in ("sym", "row", "none"):
            raise ConfigError(f"norm: expected sym, row or none, got {norm!r}.")
        if values is not None and values.shape != row.shape:
            raise DataError(
                f"edges: expected a value of each of {len(row)} edges, got {tuple(values.shape)}."
            )
        device = row.device
        if self_loops:
            if num_rows != num_cols:
                raise ConfigError(f"self-loops need a square matrix, got {num_rows} by {num_cols}.")
            nodes = torch.arange(num_rows, device=device)
            row, col = torch.cat([row, nodes]), torch.cat([col, nodes])
            if values is not None:
                values = torch.cat([values, values.new_ones(num_rows)])
        pattern, order = Pattern.of(row, col, num_rows, num_cols)
        pattern, order = pattern.to(device), order.to(device)
        weights = None if values is None else values[order]
        if weights is not None:
            _check_weights(weights, norm)
        return cls(pattern, _normalized(pattern, weights, norm), norm, weights, order, self_loops)

    # ------------------------------------------------------------------------- what it is

    @property
    def shape(self) -> tuple[int, int]:
        """(R, C)."""
        return self.pattern.num_rows, self.pattern.num_cols

    @property
    def num_edges(self) -> int:
        """E, each direction of an undirected edge counted."""
        return self.pattern.num_edges

    @property
    def row(self) -> Tensor:
        """Row of every edge, (E,) int32."""
        return self.pattern.row

    @property
    def col(self) -> Tensor:
        """Column of every edge, (E,) int32."""
        return self.pattern.col

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.values.device

    @functools.cached_property
    def symmetric(self) -> bool:
        """Whether it is its own transpose. Values that need a gradient count as not symmetric."""
        if not self.pattern.symmetric or self.values.requires_grad:
            return False
        return torch.equal(self.values, self.transposed_values)

    @property
    def transposed_values(self) -> Tensor:
        """Values in the order of the transpose, without gradient, (E,)."""
        if self.values.requires_grad:  # an optimizer may change them
            return self.values.detach().index_select(0, self.pattern.mirror)
        return self._transposed_values

    @functools.cached_property
    def _transposed_values(self) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return self.values.index_select(0, self.pattern.mirror)

    @property
    def T(self) -> Adjacency:
        """The transpose; itself where it is symmetric."""
        if self.symmetric:
            return self
        return Adjacency(
            self.pattern.transpose(),
            self.values.index_select(0, self.pattern.mirror),
            loops=self.loops,
        )

    def to_dense(self) -> Tensor:
        """The whole matrix, (R, C): for small ones."""
        dense = torch.zeros(self.shape, dtype=self.values.dtype, device=self.device)
        return dense.index_put((self.row.long(), self.col.long()), self.values, accumulate=True)

    def to(self, device: torch.device | str) -> Adjacency:
        """The same on another device; itself where it is there already."""
        if torch.empty(0, device=device).device == self.device:
            return self
        moved = {
            name: None if (value := getattr(self, name)) is None else value.to(device)
            for name in ("values", "weights", "edge_order")
        }
        return dataclasses.replace(self, pattern=self.pattern.to(device), **moved)

    # --------------------------------------------------------------------------- products

    def __matmul__(self, x: Tensor) -> Tensor:
        """``A x``, with the gradients of x and, where they require one, of the values.

        Args:
            x: (C, D), floating point.

        Returns:
            (R, D), in the dtype of x.

        Raises:
            DataError: x has another number of rows, or is on another device.
        """
        self._check(x)
        return Product.apply(x, self.values, self)  # type: ignore[return-value]

    def propagate(self, x: Tensor, num_layers: int, combine: Combine = "mean") -> Tensor:
        """Layers ``x, A x, A^2 x, ...`` put together.

        Of a sum or a mean the gradient is the same polynomial of the transpose, so nothing is kept
        for backward.

        Args:
            x: Rows of layer 0, (N, D).
            num_layers: L, the highest power.
            combine: ``mean`` or ``sum`` of all L + 1, the ``last``, or all of them as a ``stack``.

        Returns:
            (N, D), or (N, L + 1, D) for ``stack``.

        Raises:
            ConfigError: The matrix is not square, or an option is unknown.

        Source:
            He et al., "LightGCN", SIGIR 2020, eq. 8 (``mean``); Liu et al., "Towards Deeper Graph
            Neural Networks", KDD 2020, eq. 8 (``stack``, before its gate).
        """
        if self.shape[0] != self.shape[1] or num_layers < 0:
            raise ConfigError(
                f"propagate: expected a square matrix and 0 or more layers, got "
                f"{self.shape[0]} by {self.shape[1]} and {num_layers}."
            )
        if combine not in ("mean", "sum", "last", "stack"):
            raise ConfigError(f"combine: expected mean, sum, last or stack, got {combine!r}.")
        self._check(x)
        if combine != "stack" and not self.values.requires_grad:
            return Polynomial.apply(x, self, num_layers, combine)  # type: ignore[return-value]
        layers = [x]
        for _ in range(num_layers):
            layers.append(self @ layers[-1])
        if combine == "stack":
            return torch.stack(layers, 1)
        if combine == "last":
            return layers[-1]
        return sum(layers[1:], layers[0]) / (len(layers) if combine == "mean" else 1)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[0] != self.shape[1] or not x.is_floating_point():
            raise DataError(
                f"propagation: expected floating-point rows ({self.shape[1]}, D), got "
                f"{tuple(x.shape)} of {x.dtype}."
            )
        if x.device != self.device:
            raise DataError(
                f"propagation: the graph is on {self.device} and its rows on {x.device}. "
                "Move it with `adj.to(x.device)`."
            )

    # ---------------------------------------------------------------------- other values

    def reweight(self, values: Tensor) -> Adjacency:
        """The same edges with other values, as they are: attention, say.

        Args:
            values: Of every edge, in the order of this operator, (E,); may require a gradient.

        Raises:
            DataError: There are more or fewer.
        """
        if values.shape != self.col.shape:
            raise DataError(
                f"reweight: expected {self.num_edges} values, got {tuple(values.shape)}."
            )
        return Adjacency(
            self.pattern, values, weights=values, edge_order=self.edge_order, loops=self.loops
        )

    def softmax(self, scores: Tensor) -> Tensor:
        """Softmax of edge scores over the edges of every row, with its gradient.

        Args:
            scores: (E,), or (E, heads), in the order of this operator.

        Returns:
            The same shape; the values of a row add up to 1.

        Raises:
            DataError: There are more or fewer edges.
        """
        if len(scores) != self.num_edges:
            raise DataError(
                f"softmax: expected {self.num_edges} scores, got {tuple(scores.shape)}."
            )
        return RowSoftmax.apply(scores, self.pattern)  # type: ignore[return-value]

    # ------------------------------------------------------------------------- dropout

    def drop_edges(
        self, p: float, generator: torch.Generator | None = None, renormalize: bool = True
    ) -> Adjacency:
        """Each edge is left out with probability p; both directions of one alike.

        Args:
            p: From 0, below 1.
            generator: Of the draws.
            renormalize: Normalize what is left anew, as SGL does. Otherwise the values of what is
                left are divided by 1 - p, as LightGCN does, so sums are right on average.

        Raises:
            ConfigError: p is out of range.

        Source:
            Wu et al., "Self-supervised Graph Learning for Recommendation", SIGIR 2021, eq. 5.
        """
        draws = _draws(self.num_edges, p, generator, self.device)
        if self.pattern.symmetric:
            draws = draws.index_select(0, self.pattern.pairs)
        return self._take(draws >= p, p, renormalize)

    def drop_nodes(
        self, p: float, generator: torch.Generator | None = None, renormalize: bool = True
    ) -> Adjacency:
        """Each node loses all its edges with probability p.

        Rows and columns of a square matrix are the same nodes; otherwise they are drawn apart.

        Args:
            p: From 0, below 1.
            generator: Of the draws.
            renormalize: See `drop_edges`; otherwise values are divided by the probability
                ``(1 - p)^2`` that both ends stay.

        Raises:
            ConfigError: p is out of range.

        Source:
            Wu et al., SIGIR 2021, eq. 4.
        """
        rows, cols = self.shape
        kept = _draws(rows, p, generator, self.device) >= p
        kept_cols = kept if rows == cols else _draws(cols, p, generator, self.device) >= p
        both = kept.index_select(0, self.row) & kept_cols.index_select(0, self.col)
        return self._take(both, 1 - (1 - p) ** 2, renormalize)

    def random_walk(
        self,
        p: float,
        num_layers: int,
        generator: torch.Generator | None = None,
        renormalize: bool = True,
    ) -> tuple[Adjacency, ...]:
        """An operator with edges dropped anew for every layer.

        Args:
            p: See `drop_edges`.
            num_layers: How many.
            generator: Of the draws.
            renormalize: See `drop_edges`.

        Raises:
            ConfigError: p is out of range.

        Source:
            Wu et al., SIGIR 2021, eq. 6.
        """
        return tuple(self.drop_edges(p, generator, renormalize) for _ in range(num_layers))

    def _take(self, keep: Tensor, dropped: float, renormalize: bool) -> Adjacency:
        """Some of the edges, and all self-loops that were added."""
        scale: Any = 1 - dropped
        loop = self.row == self.col if self.loops else None
        kept = (keep if loop is None else keep | loop).nonzero()[:, 0]
        if loop is not None:
            scale = torch.where(loop[kept], 1.0, scale)
        pattern = self.pattern.take(kept)
        weights = None if self.weights is None else self.weights.index_select(0, kept)
        if renormalize and self.norm != "none":
            values = _normalized(pattern, weights, self.norm)
        else:
            values = self.values.index_select(0, kept)
            values = values if renormalize else values / scale
        return Adjacency(pattern, values, self.norm, weights, loops=self.loops)


# -------------------------------------------------------------------------------- values


def _normalized(pattern: Pattern, weights: Tensor | None, norm: Norm) -> Tensor:
    """Values of the edges, see `Adjacency`."""
    if norm == "none":
        if weights is not None:
            return weights
        return torch.ones(pattern.num_edges, device=pattern.col.device)
    row_sums = _row_sums(pattern.indptr, weights)
    if norm == "row":
        scale = row_sums.reciprocal().nan_to_num_(0, 0, 0).index_select(0, pattern.row)
    else:
        t_weights = None if weights is None else weights.index_select(0, pattern.mirror)
        col_sums = _row_sums(pattern.transposed_indptr, t_weights)
        left, right = (sums.rsqrt().nan_to_num_(0, 0, 0) for sums in (row_sums, col_sums))
        # The same value in both directions, to the bit.
        scale = left.index_select(0, pattern.row) * right.index_select(0, pattern.col)
    return scale if weights is None else weights * scale


def _row_sums(indptr: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return indptr.diff().float()
    return torch.segment_reduce(weights.detach(), "sum", offsets=indptr, axis=0)


def _check_weights(weights: Tensor, norm: Norm) -> None:
    wrong = ~weights.detach().isfinite()
    if norm != "none":
        wrong |= weights.detach() < 0
        if weights.requires_grad:
            raise ConfigError(
                f"norm={norm} has no gradient of the weights. Use norm=none and normalize them "
                "with `adj.softmax`, or detach them."
            )
    if wrong.any():
        found = weights.detach()[wrong][0].item()
        raise DataError(f"edges: expected finite weights, 0 or more, got {found}.")


def _draws(count: int, p: float, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1) where the generator is, then moved."""
    if not 0 <= p < 1:
        raise ConfigError(f"dropout: expected a probability from 0, below 1, got {p}.")
    place = device if generator is None else generator.device
    return torch.rand(count, generator=generator, device=place).to(device)
