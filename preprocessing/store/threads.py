"""Work on many small items in threads, in order, a few chunks at a time."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

from tqdm import tqdm

CHUNK = 32
"""Items that a thread takes at once. A future for each item would cost as much as the work."""


class Threads(NamedTuple):
    """Number of threads, and whether a bar is shown. The results do not depend on either."""

    jobs: int = 1
    progress: bool = False


def in_chunks(
    work: Callable[[Sequence[Any]], Any], items: Sequence[Any], jobs: int, progress: bool, title: str
) -> Iterator[Any]:
    """Yields `work` of each `CHUNK` of items, in order. At most `jobs` + 2 results wait to be taken.

    Args:
        work: Function of a sequence of items. Threads help if it reads files, hashes or decodes, which free the
            interpreter.
        items: All items.
        jobs: Threads; 1 works in this thread.
        progress: Whether to show a bar over the items.
        title: The bar's title.
    """
    chunks = (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
    with tqdm(total=len(items), desc=title, unit="file", disable=None if progress else True) as bar:
        for chunk, result in _results(work, chunks, jobs):
            yield result
            bar.update(len(chunk))


def _results(work: Callable, chunks: Iterator, jobs: int) -> Iterator[tuple[Sequence[Any], Any]]:
    if jobs == 1:
        for chunk in chunks:
            yield chunk, work(chunk)
        return
    pool = ThreadPoolExecutor(jobs)
    try:
        waiting = deque((chunk, pool.submit(work, chunk)) for chunk in islice(chunks, jobs + 2))
        while waiting:
            chunk, future = waiting.popleft()
            result = future.result()
            following = next(chunks, None)
            if following is not None:
                waiting.append((following, pool.submit(work, following)))
            yield chunk, result
    finally:
        pool.shutdown(cancel_futures=True)
