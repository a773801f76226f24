"""The ladder that a retrieved image climbs, rung by rung, before it belongs to a class.

    unreadable · near-copy of a held-out image · duplicate within the set · claimed by a nearer class · quota

Every rung drops and counts. Classes climb at once, the most similar image first, so that no order of the classes and no
number of images fetched at once decides anything.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from zsclib.checks import is_integer
from zsclib.pools.copies import ALIGNED, SIMILAR, Traces, near_copies, thumbnails
from zsclib.pools.index import Index

AT_ONCE = 256  # images opened at once
SPARE = 16  # images that a class may open at once beyond what it lacks
DEEPER = 4  # times as many rows are fetched where a list ends
FETCHED = 2**23  # entries of all lists that are fetched at once
DROPS = ("unreadable", "near held-out", "duplicate", "claimed by another class")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What an image must pass.

    Attributes:
        similar, aligned: a near-copy has at least this cosine of CLIP features, and this correlation of thumbnails (see
            `zsclib.pools.copies`).
        floor: least similarity to the query; None: no floor, as in the paper.
        claims: "nearest": an image belongs to the class whose query is nearest, whether that class has room or not;
            "taken": to the nearest class that takes it.
        over_fetch: how many times the quota is fetched at first; it changes the speed only.
    """

    similar: float = SIMILAR
    aligned: float = ALIGNED
    floor: float | None = None
    claims: str = "nearest"
    over_fetch: int = 4

    def __post_init__(self) -> None:
        if self.claims not in ("nearest", "taken"):
            raise ValueError(f"Rules: claims must be 'nearest' or 'taken', got {self.claims!r}")
        if not is_integer(self.over_fetch, 1):
            raise ValueError(f"Rules: over_fetch must be 1 or more, got {self.over_fetch!r}")
        for name in ("similar", "aligned", "floor"):
            value = getattr(self, name)
            if value is not None and not -1 <= value <= 1:
                raise ValueError(
                    f"Rules: {name} must be a cosine or correlation, from -1 to 1, got {value!r}"
                )


class Taken(NamedTuple):
    """An image that a class took: its row of the embeddings, similarity, place in the class's list, and what it is."""

    label: int
    row: int
    similarity: float
    rank: int
    image: object


@dataclass(kw_only=True)
class _Class:
    """Where a class stands."""

    rows: np.ndarray = field(
        default_factory=lambda: np.empty(0, np.int64)
    )  # its own rows that are not examined yet
    similarities: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    ranks: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    depth: int = 0  # of the list that was fetched
    examined: set[int] = field(default_factory=set)
    last: int = -1  # rank of the last image that was examined
    drops: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROPS, 0))
    similar: list[float] = field(default_factory=list)  # of the images it took
    ended: str = ""


class Ladder:
    """One climb: `climb` yields what classes take, `report` says what became of the rest.

    Args:
        index: of the pool's embeddings.
        queries: float32 (C, d), unit length.
        n: quota of each class.
        held_out: traces of images whose near-copies are dropped; None: there are none.
    """

    def __init__(self, index: Index, queries: np.ndarray, n: int, held_out: Traces | None, rules: Rules):
        self.index, self.queries, self.n = index, queries, n
        self.held_out, self.rules = held_out, rules
        self.classes = [_Class() for _ in queries]
        self._taken: set[int] = set()
        width = index.embeddings.vectors.shape[1]
        self._traces = Traces(np.empty((0, width), np.float32), thumbnails([]))  # of what was taken

    def climb(
        self, open_rows: Callable[[np.ndarray], list[tuple[object, np.ndarray] | None]]
    ) -> Iterator[Taken]:
        """Yield the images that classes take, the most similar first.

        Args:
            open_rows: opens rows of the embeddings: what is to be handed on and its pixels, None where unreadable.
        """
        while batch := self._next():
            rows = np.array([row for row, _, _, _ in batch])
            opened = open_rows(rows)
            usable = [i for i, image in enumerate(opened) if image is not None]
            features = self.index.embeddings.vectors[rows[usable]].astype(np.float32)
            own = Traces(features, thumbnails([opened[i][1] for i in usable]))
            near = self._pairs(own, self.held_out) if self.held_out is not None else {}
            before, within = self._pairs(own, self._traces), self._pairs(own, own)
            place, accepted = {i: j for j, i in enumerate(usable)}, []
            for i, (row, label, similarity, rank) in enumerate(batch):
                state, j = self.classes[label], place.get(i)
                if state.ended:
                    continue
                state.examined.add(row)
                state.last = max(state.last, rank)
                if row in self._taken:
                    state.drops["claimed by another class"] += 1
                elif j is None:
                    state.drops["unreadable"] += 1
                elif near.get(j):
                    state.drops["near held-out"] += 1
                elif before.get(j) or not within[j].isdisjoint(accepted):
                    state.drops["duplicate"] += 1
                else:
                    accepted.append(j)
                    self._taken.add(row)
                    state.similar.append(similarity)
                    if len(state.similar) == self.n:
                        state.ended = "quota"
                    yield Taken(label, row, similarity, rank, opened[i][0])
            self._traces = Traces(
                np.concatenate([self._traces.features, own.features[accepted]]),
                np.concatenate([self._traces.thumbnails, own.thumbnails[accepted]]),
            )

    def report(self, names: tuple[str, ...]) -> pd.DataFrame:
        """Return one row per class: what was asked for, delivered, and dropped at each rung.

        "hits" are all images down to the last one that was looked at, "below the floor" is what is lacking for it.
        """
        rows = []
        for name, state in zip(names, self.classes, strict=True):
            delivered = len(state.similar)
            hits = len(self.index.embeddings) if state.ended == "the pool's end" else state.last + 1
            drops = dict(state.drops)
            drops["claimed by another class"] += max(0, hits - len(state.examined))
            rows.append(
                {
                    "class": name,
                    "asked": self.n,
                    "delivered": delivered,
                    "hits": max(hits, len(state.examined)),
                    **drops,
                    "below the floor": (self.n - delivered) * (state.ended == "the floor"),
                    "mean similarity": float(np.mean(state.similar)) if delivered else float("nan"),
                    "ended by": state.ended,
                }
            )
        return pd.DataFrame(rows)

    def _next(self) -> list[tuple[int, int, float, int]]:
        """Return (row, label, similarity, rank) of the next candidates of all classes, the most similar first."""
        batch, pending = [], [0] * len(self.classes)
        places = [0] * len(self.classes)
        self._fetch(
            [label for label, state in enumerate(self.classes) if not state.ended and not len(state.rows)]
        )
        heap = [self._head(label, 0) for label, state in enumerate(self.classes) if not state.ended]
        heapq.heapify(heap)
        while heap and len(batch) < AT_ONCE:
            minus, row, label = heapq.heappop(heap)
            state, place = self.classes[label], places[label]
            if pending[label] == max(SPARE, self.n - len(state.similar)):
                break
            if self.rules.floor is not None and -minus < self.rules.floor:
                if batch:
                    break  # this class may be full before it comes so far
                state.ended = "the floor"
                continue
            batch.append((row, label, -minus, int(state.ranks[place])))
            pending[label], places[label] = pending[label] + 1, place + 1
            if place + 1 < len(state.rows):
                heapq.heappush(heap, self._head(label, place + 1))
            else:
                break  # a deeper list is fetched only where this one turns out not to do
        for state, place in zip(self.classes, places, strict=True):
            state.rows, state.ranks = state.rows[place:], state.ranks[place:]
            state.similarities = state.similarities[place:]
        return batch

    def _head(self, label: int, place: int) -> tuple[float, int, int]:
        state = self.classes[label]
        return -float(state.similarities[place]), int(state.rows[place]), label

    def _fetch(self, labels: list[int]) -> None:
        """Fetch deeper lists for classes whose own have ended, until each has a row or the pool ends."""
        while labels:
            size = len(self.index.embeddings)
            depths = {label: self.classes[label].depth for label in labels}
            for label in [label for label in labels if depths[label] >= size]:
                self.classes[label].ended = "the pool's end"
            labels = [label for label in labels if depths[label] < size]
            deeper = {
                label: min(size, depths[label] * DEEPER or self.rules.over_fetch * self.n) for label in labels
            }
            for k in sorted(set(deeper.values())):
                of_depth = [label for label in labels if deeper[label] == k]
                step = max(1, FETCHED // k)
                for start in range(0, len(of_depth), step):
                    self._search(of_depth[start : start + step], k)
            labels = [label for label in labels if not len(self.classes[label].rows)]

    def _search(self, labels: list[int], k: int) -> None:
        similarities, rows = self.index.search(self.queries[labels], k)
        for label, similarity, row in zip(labels, similarities, rows, strict=True):
            state = self.classes[label]
            own = np.flatnonzero(~np.isin(row, list(state.examined)))
            if self.rules.claims == "nearest":
                own = own[self._nearest(row[own]) == label]
            state.rows, state.similarities, state.ranks, state.depth = row[own], similarity[own], own, k

    def _nearest(self, rows: np.ndarray) -> np.ndarray:
        """Return the class whose query is nearest to each row, int64 (m,); of equally near ones the first."""
        nearest = [np.empty(0, np.int64)]
        for start in range(0, len(rows), 2**16):
            vectors = self.index.embeddings.vectors[rows[start : start + 2**16]].astype(np.float32)
            nearest.append((vectors @ self.queries.T).argmax(1))
        return np.concatenate(nearest)

    def _pairs(self, images: Traces, reference: Traces) -> dict[int, set[int]]:
        """Return image → its near-copies among the reference, for all images."""
        pairs: dict[int, set[int]] = {i: set() for i in range(len(images))}
        for i, j in near_copies(images, reference, self.rules.similar, self.rules.aligned).tolist():
            pairs[i].add(j)
        return pairs
