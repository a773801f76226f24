"""How fast a pool is searched, side by side in one process: python bench/pools.py [--help]

Unit vectors around clusters, as embeddings are, written block by block to disk as float16; queries around the same
clusters. Three ways to their 10 nearest rows:
  numpy   a plain scan: float32 blocks times queries, the best of each
  exact   zsclib.pools.index, the scan
  ivf-pq  zsclib.pools.index, through lists and codes whose candidates are ranked again by the stored rows
For each size: seconds to build, milliseconds a query (the median of several repeats, all queries at once and one by
one), recall@10 against the scan, and the most memory that building and searching took beyond what the process held at
its start. Pages of files that are mapped are left out: the system takes them back at will, and the size on disk stands
below. Memory is flat where these columns stay what they are while the files grow. Machines are noisy: times are those
that the processors spent on this process, all threads together, and what stands in brackets is the time on the clock.

    python bench/pools.py --sizes 10000000x128 1000000x512 --limit 20 --folder FOLDER_WITH_4_GB

Measured in November 2026 on one busy core of 65 GFLOPS, processor time; GiB are the most that was held:
       rows  width  way      ms a query, in batches  single  recall@10  GiB to build, to search  on disk
  1,000,000    128  ivf-pq                     1.50     3.4       .988               0.08  0.04     0.28
                    numpy                     21.76     260          1                     0.06     0.24
 10,000,000    128  ivf-pq                     2.52     4.3       .965               0.52  0.26     2.75
                    numpy                    217.74    2635          1                     0.26     2.38
  1,000,000    512  ivf-pq                     2.81     4.4       .927               0.22  0.08     1.02
                    numpy                     83.24    1772          1                     0.21     0.95
So ten million vectors are searched 86 times as fast as by the scan, and one query by itself 600 times. Building holds
little more than the index and a block of vectors; the vectors stay on disk.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from zsclib.pools.index import FILE, build_index
from zsclib.pools.vectors import Embeddings, Vectors
from zsclib.seeds import rng

BLOCK = 2**16  # rows that are made, or scanned, at once
SIZES = ("100000x128", "1000000x128", "10000000x128", "1000000x512")


def centres(d: int, clusters: int) -> np.ndarray:
    """Return cluster centres, in groups of their own, as classes are of kinds: float32 (clusters, d)."""
    draws = rng(0, "bench centres", d, clusters)
    groups = draws.normal(size=(max(1, clusters // 50), d))
    return (groups[draws.integers(len(groups), size=clusters)] + draws.normal(size=(clusters, d))).astype(np.float32)


def rows_around(middles: np.ndarray, n: int, block: int, spread: float) -> np.ndarray:
    """Return a block of rows around centres, unit length; clusters are of very different sizes."""
    draws = rng(0, "bench rows", block)
    share = 1 / np.arange(1, len(middles) + 1) ** 0.7
    chosen = draws.choice(len(middles), n, p=share / share.sum())
    x = middles[chosen] + spread * draws.standard_normal((n, middles.shape[1]), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def write(path: Path, n: int, middles: np.ndarray, spread: float) -> None:
    """Write n rows to a .npy file, block by block."""
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(n, middles.shape[1]))
    for start in range(0, n, BLOCK):
        out[start : start + BLOCK] = rows_around(middles, min(BLOCK, n - start), start // BLOCK, spread)
    out.flush()


def scan(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Return the k nearest rows of each query, (q, k), as one writes it in numpy."""
    best = [np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)]
    for start in range(0, len(vectors), BLOCK):
        cosines = queries @ vectors[start : start + BLOCK].astype(np.float32).T
        own = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        best = [
            np.concatenate([best[0], np.take_along_axis(cosines, own, 1)], 1),
            np.concatenate([best[1], own + start], 1),
        ]
        own = np.argpartition(-best[0], k - 1, axis=1)[:, :k]
        best = [np.take_along_axis(part, own, 1) for part in best]
    return best[1]


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that a call takes: of the processors, and on the clock."""
    spent, started = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - spent, time.perf_counter() - started


def query_times(search: Callable[[np.ndarray], np.ndarray], queries: np.ndarray, repeats: int) -> str:
    """Return milliseconds a query, all at once and one by one, each with that on the clock in brackets."""
    together = [timed(lambda: search(queries)) for _ in range(repeats)]
    single = [timed(lambda query=query: search(query[None])) for query in queries[: 3 * repeats]]
    columns = []
    for times, count in ((together, len(queries)), (single, 1)):
        cpu, clock = (statistics.median(column) / count * 1000 for column in zip(*times, strict=True))
        columns.append(f"{cpu:.2f} ({clock:.2f})")
    return f"{columns[0]:>18} {columns[1]:>18}"


def memory() -> float:
    """Return the memory that this process holds by itself in GiB, pages of mapped files left out (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2**20


class Peak:
    """The most memory within a `with`, in GiB, looked at a hundred times a second: `most`."""

    def __enter__(self) -> Peak:
        self.most, self._over = memory(), threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, memory())


def main() -> None:
    """Print a line for each size and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="rows x width (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--spread", type=float, default=0.7, help="standard deviation within a cluster; between: 1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the vectors are written (default: a temporary folder)")
    parser.add_argument("--limit", type=float, default=20, help="GiB that this process may hold (default: %(default)s)")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (int(options.limit * 2**30),) * 2)  # beyond it, an error
    start = memory()
    columns = f"{'build s':>15} {'ms/query':>18} {'ms/query, single':>18} recall  GiB to build, to search"
    print(f"{'rows':>9} {'width':>5} {'way':<7} {columns}")
    for size in options.sizes:
        n, d = map(int, size.split("x"))
        middles = centres(d, max(50, int(n**0.5)))
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "img_emb_0.npy"
            write(path, n, middles, options.spread)
            vectors = np.load(path, mmap_mode="r")
            queries = rows_around(middles, options.queries, 2**30, options.spread)
            expected = scan(vectors, queries, options.k)
            embeddings, indexes = Embeddings(Vectors([vectors])), {}
            for way in ("ivf-pq", "exact", "numpy"):
                into = folder if way == "ivf-pq" else None
                kind = "exact" if way == "numpy" else way
                with Peak() as building:
                    built = timed(lambda: indexes.update({way: build_index(embeddings, into, kind)}))  # noqa: B023

                def search(queries: np.ndarray) -> np.ndarray:
                    if way == "numpy":  # noqa: B023
                        return scan(vectors, queries, options.k)  # noqa: B023
                    return indexes[way].search(queries, options.k)[1]  # noqa: B023

                with Peak() as searching:
                    nearest = search(queries)
                recall = np.mean([len(set(a) & set(b)) / options.k for a, b in zip(nearest, expected, strict=True)])
                build = f"{built[0]:.1f} ({built[1]:.1f})"
                times = query_times(search, queries, options.repeats)
                held = f"{building.most - start:5.2f} {searching.most - start:5.2f}"
                print(f"{n:>9} {d:>5} {way:<7} {build:>15} {times} {recall:6.3f} {held}", flush=True)
            sizes = [file.stat().st_size / 2**30 for file in (path, Path(folder) / FILE)]
            print(f"{n:>9} {d:>5} on disk: {sizes[0]:.2f} GiB of vectors, {sizes[1]:.2f} GiB of index", flush=True)


if __name__ == "__main__":
    main()
