"""The nearest rows of a pool's embeddings: by a scan in blocks, or by a compressed index whose hits are ranked again.

    index = build_index(embeddings)
    similarities, rows = index.search(queries, k=4)
    rows                                                # (C, 4)

What an index reports is exact; what it may do is miss a row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from zsclib.checks import is_integer
from zsclib.paths import atomic, write_json
from zsclib.pools.vectors import Embeddings, check_unit
from zsclib.seeds import rng

EXACT_UP_TO = 2**30  # numbers of a pool that "auto" scans: 8 million rows of 128, 2 million of 512
PER_LIST, ITERATIONS = 64, 10  # training rows for each list and each code, and rounds of k-means
PROBES = 32  # lists that are looked into, at least
RERANKED = (8, 800)  # candidates that are ranked again: so many times k, and so many more
SCANNED = 4  # where more than one in so many rows is a candidate, all of them are scanned
FILE, ABOUT = "index.faiss", "index.json"


@dataclass(frozen=True, kw_only=True)
class Index:
    """A way to search embeddings; made by `build_index` and `open_index`.

    Attributes:
        embeddings: what is searched.
        lists: None for a scan; or a faiss IVF-PQ index of the same rows.
    """

    embeddings: Embeddings
    lists: faiss.Index | None = None

    @property
    def kind(self) -> str:
        """How it searches: "exact" or "ivf-pq"."""
        return "exact" if self.lists is None else "ivf-pq"

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest rows of each query: similarities float32 (q, k), falling, and rows int64 (q, k).

        Similarities are exact with either kind: what an index proposes is ranked again by the stored rows. Equally
        similar rows come in their own order. With fewer than k rows, as many columns as there are rows.

        Args:
            queries: float32 (q, d), unit length.
            k: 1 or more.

        Raises:
            ValueError: queries of another width, that are no unit vectors, k below 1, or a row that is NaN, as such a
                row would always be among the nearest.
        """
        queries = self._checked(queries)
        if not is_integer(k, 1):
            raise ValueError(f"Index.search: k must be 1 or more, got {k!r}")
        n, candidates = len(self.embeddings), RERANKED[0] * k + RERANKED[1]
        if self.lists is None or candidates * SCANNED > n:
            return self._sound(*self._scan(queries, min(k, n)))
        probes = max(
            PROBES, -(-2 * candidates * self.lists.nlist // n)
        )  # so that lists hold twice the candidates
        parameters = faiss.SearchParametersIVF(nprobe=min(probes, self.lists.nlist))
        _, proposed = self.lists.search(queries, candidates, params=parameters)
        similarities, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for i, query in enumerate(queries):
            own = np.sort(proposed[i][proposed[i] >= 0])
            if len(own) < k:  # lists of very uneven lengths
                similarities[i : i + 1], rows[i : i + 1] = self._scan(query[None], k)
                continue
            cosines = self.embeddings.vectors[own].astype(np.float32) @ query
            best = np.lexsort((own, -cosines))[:k]
            similarities[i], rows[i] = cosines[best], own[best]
        return self._sound(similarities, rows)

    def _checked(self, queries: np.ndarray) -> np.ndarray:
        queries, width = np.ascontiguousarray(queries, np.float32), self.embeddings.vectors.shape[1]
        if queries.ndim != 2 or queries.shape[1] != width:
            raise ValueError(
                f"Index.search: queries {queries.shape} for embeddings {width} wide; both must come from one CLIP"
            )
        norms = np.linalg.norm(queries, axis=1)
        if not np.all(np.abs(norms - 1) < 1e-2):  # also NaN
            row = int(np.argmax(~(np.abs(norms - 1) < 1e-2)))
            raise ValueError(
                f"Index.search: query {row} has length {norms[row]:.4g}, not 1; divide it by its length"
            )
        return queries

    def _sound(self, similarities: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a result, unless a row of it is NaN: opening files made here looks at some rows only."""
        damaged = ~np.isfinite(similarities)
        if damaged.any():
            check_unit(self.embeddings.vectors, self.embeddings.folder or "the embeddings", rows[damaged][:1])
        return similarities, rows

    def _scan(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        best = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        for start, block in self.embeddings.vectors.blocks():
            cosines = queries @ block.T
            rows = np.broadcast_to(np.arange(start, start + len(block)), cosines.shape)
            own = _largest(cosines, rows, k)  # a matrix product and a partition: half the time of faiss.knn
            best = _largest(np.concatenate([best[0], own[0]], 1), np.concatenate([best[1], own[1]], 1), k)
        order = np.lexsort((best[1], -best[0]), axis=1)
        return np.take_along_axis(best[0], order, 1), np.take_along_axis(best[1], order, 1)


def build_index(embeddings: Embeddings, folder: Path | str | None = None, kind: str = "auto") -> Index:
    """Prepare embeddings to be searched.

    An IVF-PQ index (Jégou et al. 2011) sorts rows into about √n lists and has a code of each, a byte for four numbers
    or, beyond a width of 256, for eight. It is made in blocks: beside the codes, no more than one block is in memory.

    Args:
        folder: where an IVF-PQ index is written; None: it stays in memory. A scan needs no file.
        kind: "exact" (a scan), "ivf-pq", or "auto": a scan up to `EXACT_UP_TO` numbers.

    Raises:
        ValueError: an unknown kind, or no rows.
    """
    if kind not in ("auto", "exact", "ivf-pq"):
        raise ValueError(f"build_index: the kind must be 'auto', 'exact' or 'ivf-pq', got {kind!r}")
    n, d = embeddings.vectors.shape
    if not n:
        raise ValueError("build_index: there are no embeddings to search")
    if kind == "exact" or (kind == "auto" and n * d <= EXACT_UP_TO):
        return Index(embeddings=embeddings)
    lists = _trained(embeddings)
    for _, block in embeddings.vectors.blocks():
        lists.add(block)
    if folder is not None:
        with atomic(Path(folder) / FILE) as temporary:
            faiss.write_index(lists, str(temporary))
        size = (Path(folder) / FILE).stat().st_size
        write_json(
            Path(folder) / ABOUT,
            {"embeddings": embeddings.fingerprint(), "rows": n, "width": d, "bytes": size},
        )
        return open_index(folder, embeddings)  # from the disk: what is not searched does not stay in memory
    return Index(embeddings=embeddings, lists=lists)


def open_index(folder: Path | str, embeddings: Embeddings) -> Index:
    """Open the index that `build_index` wrote, mapped into memory; where it wrote none, scan.

    Raises:
        ValueError: the index is of other embeddings, or was cut short.
    """
    path, about = Path(folder) / FILE, Path(folder) / ABOUT
    if not path.is_file() and not about.is_file():
        return Index(embeddings=embeddings)
    if not path.is_file() or not about.is_file():
        raise ValueError(
            f"{folder}: {FILE} and {ABOUT} belong together, one is missing; build the index again"
        )
    facts, size = json.loads(about.read_text(encoding="utf-8")), path.stat().st_size
    if facts["embeddings"] != embeddings.fingerprint():
        raise ValueError(
            f"{path}: of {facts['rows']} other embeddings, {facts['width']} wide, not of these {len(embeddings)}, "
            f"{embeddings.vectors.shape[1]} wide; build the index again"
        )
    if size != facts["bytes"]:
        raise ValueError(
            f"{path}: {size} bytes, {facts['bytes']} when it was written: cut short; build it again"
        )
    return Index(embeddings=embeddings, lists=faiss.read_index(str(path), faiss.IO_FLAG_MMAP))


def _largest(cosines: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k largest cosines of each line and their rows, in any order; all where there are no more."""
    if cosines.shape[1] <= k:
        return cosines, rows
    chosen = np.argpartition(cosines, -k, axis=1)[:, -k:]
    return np.take_along_axis(cosines, chosen, 1), np.take_along_axis(rows, chosen, 1)


def _trained(embeddings: Embeddings) -> faiss.IndexIVFPQ:
    """Return an empty index, trained on rows drawn from all over the pool."""
    n, d = embeddings.vectors.shape
    number = max(1, 2 ** round(np.log2(n) / 2))  # lists, about √n
    codes = max(m for m in range(1, d + 1) if d % m == 0 and m <= max(1, d // (4 if d <= 256 else 8)))
    bits = min(8, max(1, int(np.log2(n)) - 2))
    quantizer = faiss.IndexFlatIP(d)
    lists = faiss.IndexIVFPQ(quantizer, d, number, codes, bits, faiss.METRIC_INNER_PRODUCT)
    for clustering in (lists.cp, lists.pq.cp):
        clustering.niter, clustering.max_points_per_centroid = ITERATIONS, PER_LIST
        clustering.min_points_per_centroid = 1  # small pools are no reason for a warning
    amount = min(n, PER_LIST * max(number, 2**bits))
    drawn = np.sort(rng(0, "pool index", n).choice(n, amount, replace=False))
    lists.train(embeddings.vectors[drawn].astype(np.float32))
    return lists
