"""`bimo answer`: a question -> an answer with the passage that it stands in, or that the documents do not hold it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimo.console import SILENT, Console
from bimo.runtime import pick_device, t
from bimo.tasks.answer.passages import Passage, read_passages
from bimo.tasks.answer.reading import Reader, load_reader
from bimo.tasks.answer.retrieval import PassageIndex
from bimo.tasks.embed.embedder import open_embedder
from bimo.tasks.folder import tell_refused
from bimo.text.documents import Rejected

__all__ = ["PASSAGES", "Answer", "Library", "answer", "answer_lines"]

PASSAGES = 5
"""How many are read of those that search finds."""

AROUND = 60
"""Characters of the passage that are shown on each side of the answer."""

Write = Callable[[str, Sequence[Passage]], dict[str, Any]]
"""A question and passages -> what a language model writes, and which passages it cites."""


@dataclass(frozen=True)
class Answer:
    """`text` stands at characters [start, end) of the passage; it is `given` when the confidence is high enough.

    Without a passage nothing in the documents has to do with the question, whose last `unread` tokens were too many.
    """

    question: str
    given: bool
    text: str = ""
    confidence: float = 0.0
    passage: Passage | None = None
    start: int = 0
    end: int = 0
    unread: int = 0

    def facts(self) -> dict[str, Any]:
        """For JSON: `answer` is null where none is given, `nearest` is what was thought of."""
        where = self.passage._asdict() if self.passage is not None else None
        return {
            "question": self.question,
            "answer": self.text if self.given else None,
            "confidence": self.confidence,
            "unread": self.unread,
            "nearest": {"text": self.text, "start": self.start, "end": self.end, "passage": where},
        }


class Library:
    """Passages of documents, and a reader that looks for answers in those that fit a question."""

    def __init__(self, reader: Reader, passages: Sequence[Passage], index: PassageIndex) -> None:
        self.reader, self.passages, self.index = reader, passages, index

    def find(self, question: str, *, count: int = PASSAGES) -> list[Passage]:
        """The passages that fit best, the best first; all of them, where they are no more than `count`."""
        numbers = self.index.search(question, count)
        if len(self.passages) <= count:
            numbers = list(dict.fromkeys([*numbers, *range(len(self.passages))]))
        return [self.passages[number] for number in numbers]

    def answer(self, question: str, passages: Sequence[Passage]) -> Answer:
        """The likeliest answer in these passages."""
        if not passages:
            return Answer(question, given=False)
        readings = self.reader.read([question] * len(passages), [passage.text for passage in passages])
        reading, passage = max(zip(readings, passages, strict=True), key=lambda pair: pair[0].margin)
        calibration = self.reader.config.calibration
        return Answer(
            question,
            given=reading.margin >= calibration.threshold,
            text=passage.text[reading.start : reading.end],
            confidence=calibration.confidence(reading.margin),
            passage=passage,
            start=reading.start,
            end=reading.end,
            unread=self.reader.unread(question),
        )


def answer(
    model: str | Path,
    questions: str | Iterable[str],
    *,
    documents: Sequence[str | Path],
    vectors: str | Path | None = None,
    writer: str | Path | None = None,
    passages: int = PASSAGES,
    device: str = "auto",
    console: Console = SILENT,
) -> Iterator[dict[str, Any]]:
    """Answer questions, one or many, from documents; yields the facts of `Answer` for each.

    `model` is an encoder that `bimo tune --task answer` taught; `vectors` an encoder of sentences that helps to search;
    `writer` a language model that writes an answer from the passages. Raises UserError when one of them will not do.
    """
    where = pick_device(device)
    reader = load_reader(Path(model), device=where)
    embed = open_embedder(vectors, device=device).embed if vectors is not None else None
    write = _load_writer(writer, device) if writer is not None else None
    refused: list[Rejected] = []
    try:
        found = read_passages([Path(source) for source in documents], unread=refused.append)
    finally:  # where nothing is left, what was refused says why
        tell_refused(refused, console, kept=False)
    files = len({passage.source for passage in found})
    console.say("Read", t("{passages:,} passages of {files:,} files", passages=len(found), files=files))
    library = Library(reader, found, PassageIndex([passage.text for passage in found], embed=embed))
    return _answers([questions] if isinstance(questions, str) else questions, library, write, passages)


def _answers(questions: Iterable[str], library: Library, write: Write | None, count: int) -> Iterator[dict[str, Any]]:
    for question in questions:
        near = library.find(question, count=count)
        found = library.answer(question, near)
        facts = found.facts()
        if write is not None and found.given:
            # The one that answers comes first, so that it is shown even to a writer that can read but one.
            facts["written"] = write(question, sorted(near, key=lambda passage: passage is not found.passage))
        yield facts


def _load_writer(path: str | Path, device: str) -> Write:
    from bimo.tasks.answer.writing import load_writer

    return load_writer(Path(path), device=device)


def answer_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to know of an answer."""
    nearest = facts["nearest"]
    passage = nearest["passage"]
    confidence = t("confidence {share:.0%}", share=facts["confidence"])
    if passage is None:
        return [t("This is not in the documents: nothing in them has to do with it.")]
    where = f"{passage['source']}:{passage['line']}"
    if facts["answer"] is None:
        return [
            t("This is not in the documents."),
            t(
                "The nearest is in {where}, {confidence}: {text}",
                where=where,
                confidence=confidence,
                text=_shown(nearest),
            ),
        ]
    lines = [facts["answer"], f"{where}, {confidence}: {_shown(nearest)}"]
    if facts["unread"]:
        lines.append(t("This question is too long: its last {count:,} tokens are not read.", count=facts["unread"]))
    if "written" in facts:
        written = facts["written"]
        lines += ["", *(f"{one['text']} [{one['passage'] or '?'}]" for one in written["sentences"])]
        lines += [f"[{cited['number']}] {cited['source']}:{cited['line']}" for cited in written["cited"]]
        if not all(one["passage"] for one in written["sentences"]):
            lines.append(t("[?] No passage that was read says so."))
    return lines


def _shown(nearest: dict[str, Any]) -> str:
    """The answer, marked, with some of what stands around it, on one line."""
    text, start, end = nearest["passage"]["text"], nearest["start"], nearest["end"]
    before, after = text[max(0, start - AROUND) : start], text[end : end + AROUND]
    marked = f"{'…' * (start > AROUND)}{before}[{text[start:end]}]{after}{'…' * (end + AROUND < len(text))}"
    return " ".join(marked.split())
