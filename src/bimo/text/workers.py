"""Batches cleaned by as many processes as there are cores, with a few in flight at a time, taken back in order."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from bimo.runtime import INTERRUPTED, UserError, language, return_freed_memory, set_language
from bimo.text.batch_cleaning import clean_batch
from bimo.text.batch_store import CleanedBatches
from bimo.text.batches import Batch
from bimo.text.options import TextOptions

__all__ = ["clean_in_processes", "clean_one_by_one", "cores"]

_WAITING = 2
_LOOK_SECONDS = 1.0


def cores() -> int:
    """How many processors this process may use, whatever the machine has."""
    import loky

    return int(loky.cpu_count())


def clean_one_by_one(
    batches: Iterable[Batch], cleaned: CleanedBatches, options: TextOptions, passage_characters: int
) -> Iterator[Batch]:
    """Clean what is not there yet, and yield each batch when it is; the slow twin of clean_in_processes."""
    for batch in batches:
        if not cleaned.has(batch.number):
            cleaned.put(batch.number, clean_batch(batch, options, passage_characters))
        yield batch


def clean_in_processes(
    batches: Iterable[Batch], cleaned: CleanedBatches, options: TextOptions, passage_characters: int, workers: int
) -> Iterator[Batch]:
    """The same with `workers` processes. They hand back bytes, and this process alone writes."""
    from loky import ProcessPoolExecutor

    pool = ProcessPoolExecutor(workers, initializer=_begin, initargs=(language(), os.getpid()))
    flying: deque[tuple[Batch, Future[bytes] | None]] = deque()
    with _interrupted_once():
        try:
            for batch in batches:
                future = None
                if not cleaned.has(batch.number):
                    future = pool.submit(clean_batch, batch, options, passage_characters)
                flying.append((batch, future))
                while len(flying) > workers + _WAITING:
                    yield _land(flying, cleaned)
            while flying:
                yield _land(flying, cleaned)
        finally:
            for _, future in flying:
                if future is not None:
                    future.cancel()
            pool.shutdown()  # after the batches in work, a second or so


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Ctrl-C counts once in the block: a second one would stop the pool from being shut down, and that never ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _land(flying: deque[tuple[Batch, Future[bytes] | None]], cleaned: CleanedBatches) -> Batch:
    from loky.process_executor import TerminatedWorkerError

    batch, future = flying.popleft()
    if future is not None:
        try:
            cleaned.put(batch.number, future.result())
        except TerminatedWorkerError:
            sentence = (
                "The system ended a process that was cleaning {name} or what lies around it, as it does where memory "
                "runs out. What is finished is kept. Close other programs."
            )
            raise UserError(sentence, code=INTERRUPTED, name=batch.last) from None
    return batch


def _begin(code: str, parent: int) -> None:
    """In each process: speak the language of its parent, leave Ctrl-C to it, keep to one core, and end with it."""
    return_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["RAYON_NUM_THREADS"] = "1"
    set_language(code)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A killed parent says nothing, and the queue that it fed stays open: without this its processes stay for ever."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)
