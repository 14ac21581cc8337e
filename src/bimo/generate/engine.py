"""A language model in use: text in, text out."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bimo.generate.batching import Batch, Request, Written
from bimo.generate.constraints.automaton import START, Automaton
from bimo.generate.constraints.masks import Constraint, Vocabulary
from bimo.generate.sample import Sampling, choose
from bimo.generate.shared_starts import scores_sharing_starts
from bimo.generate.stepping import open_steps
from bimo.models.families import LanguageModule, LanguageShape
from bimo.models.scoring import Score, Window, rolling_scores, rolling_windows
from bimo.runtime import pick_device
from bimo.tokens.chat import ChatFormat, Message, own_template
from bimo.tokens.spelling import spelling_of
from bimo.tokens.tokenizer import StreamDecoder, Tokenizer
from bimo.weights.adapters import load_adapter, merged, require_same_base
from bimo.weights.gguf import GGUFModel
from bimo.weights.opening import adapter_chat_format, open_model

__all__ = ["LanguageModel", "Likelihood", "generate", "load", "write_reference"]


USUAL = Sampling()
CONSTRAINTS_KEPT = 4
MOST_AT_ONCE = 64
"""Sequences of `answers`; the others wait."""


class Likelihood(NamedTuple):
    """The natural logarithm of a probability, and whether every token was the likeliest."""

    logarithm: float
    is_greedy: bool


class LanguageModel:
    """A model with its tokenizer. Evaluation sees it through `loglikelihood`, `rolling_loglikelihood`, `generate`.

    The compiled core writes with the weights as they were when it first wrote. `ends` are ids that end an answer, where
    those are others than what stands between documents. Several threads may use it: their texts are written together.
    """

    def __init__(
        self,
        source: LanguageModule | GGUFModel,
        tokenizer: Tokenizer,
        *,
        device: torch.device | None = None,
        ends: frozenset[int] = frozenset(),
        chat: Callable[[], ChatFormat] | None = None,
    ) -> None:
        self._source, self._device = source, device
        self._find_chat = chat or (lambda: ChatFormat(tokenizer, own_template(tokenizer)))
        self.tokenizer = tokenizer
        self.config: LanguageShape = source.config
        self._ends = ends | {tokenizer.end}
        self._unread: dict[int, deque[Written]] = {}
        # Of those who step the batch. A stream that nobody reads any more may be closed by who holds it.
        self._one_at_a_time = threading.RLock()

    @functools.cached_property
    def model(self) -> LanguageModule:
        """The model in torch, all of its weights as numbers."""
        return self._source.decoder(device=self._device) if isinstance(self._source, GGUFModel) else self._source

    @functools.cached_property
    def chat(self) -> ChatFormat:
        """How messages are laid out for this model. Raises UserError when its template cannot be used."""
        return self._find_chat()

    @functools.cached_property
    def _batch(self) -> Batch:
        on_cpu = self._device is None or self._device.type == "cpu"
        return Batch(open_steps(self._source if on_cpu else self.model))

    def generate(
        self,
        prompt: str = "",
        *,
        max_tokens: int = 200,
        sampling: Sampling = USUAL,
        seed: int = 0,
        stop: tuple[str, ...] = (),
        constraint: Automaton | None = None,
    ) -> Iterator[str]:
        """Stream what follows `prompt`, piece by piece, up to the end of the text, a stop string or max_tokens.

        With a `constraint`, as `bimo.generate.constraints` makes them, the whole of it has that form; a stop string
        would cut it. Several streams of one model may be read by turns: one for which there is no slot waits until
        those before it are written to their end.
        """
        request = self._request(prompt, max_tokens, sampling, seed, constraint)
        return _until(stop, self._pieces(request, StreamDecoder(self.tokenizer, after=request.prompt)))

    def reply(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 200,
        sampling: Sampling = USUAL,
        seed: int = 0,
        stop: tuple[str, ...] = (),
        constraint: Automaton | None = None,
    ) -> Iterator[str]:
        """Stream what the assistant says next, up to the token that closes its message, a stop string or max_tokens."""
        ends = self._ends if self.chat.closing is None else self._ends | {self.chat.closing}
        prompt = self.chat.prompt(messages) or [self.tokenizer.end]
        request = Request(prompt, max_tokens, sampling, seed, ends, self._constraint(constraint))
        return _until(stop, self._pieces(request, StreamDecoder(self.tokenizer)))

    def _pieces(self, request: Request, pieces: StreamDecoder) -> Iterator[str]:
        (ticket,) = self._begin([request])
        mine = self._unread[ticket]
        try:
            last = False
            while not last:
                with self._one_at_a_time:
                    while not mine:
                        self._write()
                written = mine.popleft()
                last = written.last
                if written.token not in request.ends:
                    yield pieces.push(written.token)
            yield pieces.finish()
        finally:
            self._leave([ticket])

    def _begin(self, requests: list[Request]) -> list[int]:
        """Tickets of requests that are written with the next steps."""
        longest = max(len(request.prompt) + request.max_tokens for request in requests)
        with self._one_at_a_time:
            self._make_room(slots=min(len(requests), MOST_AT_ONCE), positions=longest)
            tickets = [self._batch.add(request) for request in requests]
            self._unread |= {ticket: deque[Written]() for ticket in tickets}
        return tickets

    def _leave(self, tickets: list[int]) -> None:
        with self._one_at_a_time:
            for ticket in tickets:
                self._batch.cancel(ticket)
                del self._unread[ticket]

    def _write(self) -> None:
        """One step of all streams; each finds its token when it is read next."""
        for written in self._batch.step():
            self._unread[written.ticket].append(written)

    def _make_room(self, *, slots: int, positions: int) -> None:
        """At least so much, or as many positions as it writes on. Streams that are under way are written first.

        The next power of two, so that a conversation that grows is not read anew with each message; not more than
        that, or a long text after many short ones would take room for many long ones.
        """
        positions = min(1 << (positions - 1).bit_length(), self.config.reach)
        if self._batch.slots < slots or self._batch.positions < positions:
            while self._batch.busy:
                self._write()
            self._batch.reserve(slots, positions)

    def samples(
        self,
        prompt: str = "",
        *,
        count: int,
        max_tokens: int = 200,
        sampling: Sampling = USUAL,
        seed: int = 0,
        constraint: Automaton | None = None,
    ) -> list[str]:
        """What follows `prompt`, `count` times, computed together. Sample i is that of seed + i alone."""
        requests = [self._request(prompt, max_tokens, sampling, seed + i, constraint) for i in range(count)]
        written = [ids[:-1] if ids[-1] in self._ends else ids for ids in self.answers(requests)]
        return [self._text_after(requests[0].prompt, ids) for ids in written]

    def _text_after(self, prompt: list[int], ids: list[int]) -> str:
        pieces = StreamDecoder(self.tokenizer, after=prompt)
        return "".join(map(pieces.push, ids)) + pieces.finish()

    def answers(self, requests: list[Request]) -> list[list[int]]:
        """The ids that each request is answered with, in their order, the end token included where one was met."""
        tickets = self._begin(requests)
        mine = [self._unread[ticket] for ticket in tickets]
        try:
            while not all(written and written[-1].last for written in mine):
                with self._one_at_a_time:
                    self._write()
            return [[one.token for one in written] for written in mine]
        finally:
            self._leave(tickets)

    def _request(
        self, prompt: str, max_tokens: int, sampling: Sampling, seed: int, constraint: Automaton | None
    ) -> Request:
        ids = self._prompt_ids(prompt)
        return Request(ids, max_tokens, sampling, seed, self._ends, self._constraint(constraint), begins=not prompt)

    def _constraint(self, automaton: Automaton | None) -> Constraint | None:
        """An automaton with the tokens of this model; those that were asked for last are kept."""
        return None if automaton is None else self._constrained(automaton)

    @functools.cached_property
    def _constrained(self) -> Callable[[Automaton], Constraint]:
        vocabulary = Vocabulary(spelling_of(self.tokenizer))
        return functools.lru_cache(CONSTRAINTS_KEPT)(lambda automaton: Constraint(automaton, vocabulary))

    def loglikelihood(self, context: str, continuation: str) -> float:
        """Natural logarithm of the probability of `continuation` after `context`, of which the nearest part is read.

        A continuation that is longer than the model's context is read in overlapping windows.
        """
        return self.loglikelihoods([(context, continuation)])[0].logarithm

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """As `loglikelihood`, of many pairs; what several contexts begin with is read once."""
        limit = self.model.config.context
        windows: list[Window] = []
        sizes = []
        for number, (context, continuation) in enumerate(pairs):
            before, after = self._encode_both(context, continuation)
            ids = [*self._begun(before), *after][-max(limit, len(after)) - 1 :]
            sizes.append(len(after))
            if len(after) > limit:
                windows += rolling_windows(ids, context=limit, stride=max(1, limit // 2), owner=number)
            else:
                windows.append(Window(ids, len(after), number))
        totals = [Score()] * len(pairs)
        for window, score in zip(windows, scores_sharing_starts(self.model, windows), strict=True):
            totals[window.owner] += score
        return [Likelihood(-score.nats, score.hits == size) for score, size in zip(totals, sizes, strict=True)]

    def rolling_loglikelihood(self, documents: list[str], *, stride: int | None = None) -> list[float]:
        """Natural logarithm of the probability of each whole document, its end included. `stride` as in scoring."""
        return [-score.nats for score in self.rolling_scores(documents, stride=stride)]

    def rolling_scores(self, documents: list[str], *, stride: int | None = None) -> list[Score]:
        """The same with how many tokens were the likeliest."""
        end = self.tokenizer.end
        context = self.model.config.context
        stride = stride or max(1, context // 2)
        begin = self._prompt_ids("")
        ids = [[*begin, *document, end] for document in self.tokenizer.encode_batch(documents)]
        return rolling_scores(self.model, ids, context=context, stride=stride)

    def _encode_both(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The ids of a context and of its continuation, as one text; each by itself, where no token ends between them.

        Some tokenizers put a blank before everything that they encode.
        """
        before, whole = self.tokenizer.encode(context), self.tokenizer.encode(context + continuation)
        as_one = whole[: len(before)] == before
        return before, whole[len(before) :] if as_one else self.tokenizer.encode(continuation)

    def unread_tokens(self, prompt: str) -> int:
        """How many tokens at the beginning of a prompt are beyond the model's reach, and have no effect."""
        return max(0, len(self._prompt_ids(prompt)) - self.config.reach)

    def _prompt_ids(self, prompt: str) -> list[int]:
        return self._begun(self.tokenizer.encode(prompt))

    def _begun(self, ids: list[int]) -> list[int]:
        return [*self.tokenizer.begin, *ids] or [self.tokenizer.end]


def _until(stop: tuple[str, ...], pieces: Iterator[str]) -> Iterator[str]:
    """Pass pieces on until a stop string is complete; what could be the start of one is held back."""
    stop = tuple(filter(None, stop))
    held = ""
    for piece in pieces:
        held += piece
        # The first to be complete counts, so that the cut does not depend on how the text came in pieces.
        found = [(held.index(text) + len(text), held.index(text)) for text in stop if text in held]
        if found:
            held = held[: min(found)[1]]
            break
        possible = max(
            (length for text in stop for length in range(1, len(text)) if held.endswith(text[:length])), default=0
        )
        ready, held = held[: len(held) - possible], held[len(held) - possible :]
        if ready:
            yield ready
    if held:
        yield held


@torch.inference_mode()
def write_reference(model: LanguageModule, request: Request) -> list[int]:
    """The slow twin of a Batch: reads everything again for each token, without a cache.

    When as much was read as the model reaches, the second half of it is read and writing goes on from there.
    """
    context = model.config.reach
    chances = np.random.default_rng(request.seed)
    constraint, state, begins = request.constraint, START, request.begins
    ids, start = list(request.prompt), max(0, len(request.prompt) - context)
    while len(ids) - len(request.prompt) < request.max_tokens:
        if len(ids) - start > context:
            start = len(ids) - max(1, context // 2)
        logits = model(torch.tensor([ids[start:]]))[:, -1].float().numpy()
        written = len(ids) - len(request.prompt)
        if constraint is not None:
            left = request.max_tokens - written
            first = begins and not written
            logits[0] = constraint.hide(logits[0], state, first=first, left=left, ends=request.ends)
        seen = [id_ for id_ in ids if id_ not in request.ends]
        ids += choose(logits, [seen], request.sampling, [chances.random()])
        if ids[-1] in request.ends:
            break
        if constraint is not None:
            state = constraint.after(state, ids[-1], first=begins and not written)
            if constraint.closed(state):
                break
    return ids[len(request.prompt) :]


def load(path: str | Path, *, device: str = "auto", adapter: str | Path | None = None) -> LanguageModel:
    """The model in a Hugging Face folder or a GGUF file, ready to write, with the adapter in a folder added to it.

    Raises UserError when it is none that Bimo reads.
    """
    where = pick_device(device)
    opened = open_model(Path(path), device=where)
    source, find_chat = opened.source, opened.chat
    if adapter is not None:
        folder = Path(adapter)
        require_same_base(folder, Path(path))
        source = merged(opened.tunable, load_adapter(folder, opened.tunable.config))
        find_chat = functools.partial(adapter_chat_format, folder, opened)
    return LanguageModel(source, opened.tokenizer, device=where, ends=opened.ends, chat=find_chat)


def generate(path: str | Path, prompt: str = "", *, max_tokens: int = 200, seed: int = 0) -> str:
    """What the model at `path` writes after `prompt`, with the default sampling."""
    return "".join(load(path).generate(prompt, max_tokens=max_tokens, seed=seed))
