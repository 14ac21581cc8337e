"""Answers in texts beside transformers' own question-answering fine-tuning, on ../shared/data/qa.

    python benchmarks/answer.py --language en --start MINILM [--minutes 4] [--rate 1e-4] [--their-rate 2e-4]
    python benchmarks/answer.py --language zh --pretrain 60 [--minutes 4] [--part dev]

Both learn from the same questions for the same minutes from the same start. XQuAD is split by article, CMRC 2018 (dev
and trial) by text, into 70, 10 and 20 %; rates are chosen on `--part dev`. An answer is always asked for, as SQuAD 1.1
does; what is refused of 100 questions with a text that is not theirs is counted beside it. Without `--start` an encoder
is pretrained for `--pretrain` minutes on the Chinese texts of ../shared/data/lm and those of the training questions.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from answer_search import DATA, SETS, questions_of
from peak import BIMO
from record import Comparison, conclude

from bimo.machine import measure_machine
from bimo.runtime import pick_device
from bimo.text.questions import Question, read_questions

LM = DATA.parent / "lm"
SOURCES = {"en": SETS["XQuAD en"], "zh": SETS["CMRC 2018"]}
CORPORA = ("zh_classic_novels", "zh_modern_python_docs", "zh_poetry")
WRONG = 100
CONTEXT = 128
"""Of the encoder that is pretrained."""

WINDOW, STRIDE, BATCH, N_BEST, LONGEST = 384, 128, 8, 20, 30
"""Of the peer, as transformers documents question answering; its answers in Chinese may be longer."""


def split(language: str, folder: Path) -> dict[str, Path]:
    """SQuAD files of train, dev and test: by article where a file has articles, otherwise by text."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name in SOURCES[language]:
        for question in questions_of([name]):
            paragraph = {
                "question": question.question,
                "answers": [{"text": span.text, "answer_start": span.start} for span in question.answers],
                "references": list(question.references),
            }
            groups.setdefault(question.context, []).append(paragraph)
    texts = sorted(groups)
    if language == "en":
        raw = json.loads((DATA / SOURCES["en"][0]).read_text(encoding="utf-8"))["data"]
        articles = [[paragraph["context"] for paragraph in article["paragraphs"]] for article in raw]
    else:
        articles = [[text] for text in texts]
    random.Random(0).shuffle(articles)
    ends = [0, int(0.7 * len(articles)), int(0.8 * len(articles)), len(articles)]
    paths = {}
    for part, first, end in zip(("train", "dev", "test"), ends, ends[1:], strict=False):
        chosen = [text for article in articles[first:end] for text in article]
        paths[part] = folder / f"{language}-{part}.json"
        data = [{"paragraphs": [{"context": text, "qas": groups[text]}]} for text in chosen]
        paths[part].write_text(json.dumps({"data": data}, ensure_ascii=False), encoding="utf-8")
    return paths


def wrong_pairs(questions: Sequence[Question]) -> list[tuple[str, str]]:
    """Questions with a text that is not theirs and holds none of their answers."""
    chance = random.Random(1)
    texts = sorted({question.context for question in questions})
    pairs = []
    for question in chance.sample(list(questions), min(WRONG, len(questions))):
        fitting = [text for text in texts if not any(one.strip() in text for one in question.references)]
        pairs.append((question.question, chance.choice(fitting)))
    return pairs


def agreement(answers: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
    """Exact match and F1 in percent, by the rule of the language."""
    from bimo.tasks.answer.scoring import exact_match, f1, is_chinese

    found = [
        (
            exact_match(answer, question.references, chinese=is_chinese(question.context)),
            f1(answer, question.references, chinese=is_chinese(question.context)),
        )
        for answer, question in zip(answers, questions, strict=True)
    ]
    exact, f1s = np.mean(np.array(found, dtype=float), axis=0)
    return {"exact": 100 * float(exact), "F1": 100 * float(f1s)}


def ours(start: Path, paths: dict[str, Path], part: str, minutes: float, rate: float, folder: Path) -> dict[str, Any]:
    """`bimo tune --task answer`, its model loaded from disk."""
    from bimo.tasks.answer.answering import Library
    from bimo.tasks.answer.passages import Passage
    from bimo.tasks.answer.reading import load_reader
    from bimo.tasks.answer.retrieval import PassageIndex
    from bimo.tasks.tune import tune
    from bimo.train.tune import TuneConfig

    settings = TuneConfig(epochs=30, minutes=minutes, rate=rate, batch=BATCH)
    facts = tune(start, paths["train"], out=folder / "ours", task="answer", settings=settings)
    reader = load_reader(folder / "ours")
    questions = read_questions(paths[part]).kept
    readings = reader.read([one.question for one in questions], [one.context for one in questions])
    answers = [one.context[reading.start : reading.end] for one, reading in zip(questions, readings, strict=True)]
    pairs = wrong_pairs(questions)
    margins = [reading.margin for reading in reader.read(*map(list, zip(*pairs, strict=True)))]
    threshold = reader.config.calibration.threshold
    texts = sorted({question.context for question in questions})
    library = Library(reader, [Passage("", number, text) for number, text in enumerate(texts)], PassageIndex(texts))
    searched = [library.answer(one.question, library.find(one.question)) for one in questions]
    confidences = np.array([one.confidence for one in searched])
    right = np.array([agreement([a.text], [q])["F1"] >= 50 for a, q in zip(searched, questions, strict=True)])
    return {
        **agreement(answers, questions),
        "steps": facts["steps"],
        "epochs": facts["epochs"],
        "seconds": facts["seconds"],
        "refused of wrong": 100 * float(np.mean(np.array(margins) < threshold)),
        "answered of right": 100 * float(np.mean([one.margin >= threshold for one in readings])),
        "searched": agreement([one.text for one in searched], questions),
        "confidence, mean": float(confidences.mean()),
        "right, share": float(right.mean()),
        "held out": facts["scores"],
    }


def theirs(
    start: Path, paths: dict[str, Path], part: str, minutes: float, rate: float, *, longest: int, dtype: str
) -> dict[str, Any]:
    """transformers as it documents question answering: AdamW, a rate that falls to 0, windows that overlap.

    As fast as its documentation makes it on a CPU: `dtype` is what this machine multiplies fastest, and batches are of
    like length, filled up to their longest.
    """
    import torch
    from transformers import AutoTokenizer, BertForQuestionAnswering, DataCollatorWithPadding
    from transformers.trainer_pt_utils import LengthGroupedSampler

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(start)
    model = BertForQuestionAnswering.from_pretrained(start)
    collate = DataCollatorWithPadding(tokenizer)
    window = min(WINDOW, model.config.max_position_embeddings)

    def windows(questions: Sequence[Question]) -> Any:
        return tokenizer(
            [one.question for one in questions],
            [one.context for one in questions],
            truncation="only_second",
            max_length=window,
            stride=min(STRIDE, window // 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
        )

    train = read_questions(paths["train"]).kept
    encoded = windows(train)
    rows = []
    for row, sample in enumerate(encoded["overflow_to_sample_mapping"]):
        answer = train[sample].answers[0]
        of_text = [place for place, kind in enumerate(encoded.sequence_ids(row)) if kind == 1]
        offsets = encoded["offset_mapping"][row]
        inside = of_text and offsets[of_text[0]][0] <= answer.start and offsets[of_text[-1]][1] >= answer.end
        first = max((p for p in of_text if offsets[p][0] <= answer.start), default=0) if inside else 0
        last = min((p for p in of_text if offsets[p][1] >= answer.end), default=0) if inside else 0
        rows.append({**_inputs(encoded, row), "start_positions": first, "end_positions": last})
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    steps, epochs, begin = 0, 0.0, time.perf_counter()
    model.train()
    while (spent := (time.perf_counter() - begin) / 60) < minutes:
        numbers = list(LengthGroupedSampler(BATCH, lengths=[len(row["input_ids"]) for row in rows]))
        for batch in (numbers[place : place + BATCH] for place in range(0, len(numbers), BATCH)):
            spent = (time.perf_counter() - begin) / 60
            if spent >= minutes:
                break
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - spent / minutes)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = model(**collate([rows[number] for number in batch])).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            steps, epochs = steps + 1, epochs + BATCH / len(rows)
    model.eval()
    questions = read_questions(paths[part]).kept
    encoded = windows(questions)
    best = [(-np.inf, "")] * len(questions)
    with torch.inference_mode():
        for row, sample in enumerate(encoded["overflow_to_sample_mapping"]):
            output = model(**collate([_inputs(encoded, row)]))
            firsts, lasts = output.start_logits[0].numpy(), output.end_logits[0].numpy()
            kinds, offsets = encoded.sequence_ids(row), encoded["offset_mapping"][row]
            for first in np.argsort(-firsts)[:N_BEST]:
                for last in np.argsort(-lasts)[:N_BEST]:
                    if kinds[first] == kinds[last] == 1 and first <= last < first + longest:
                        text = questions[sample].context[offsets[first][0] : offsets[last][1]]
                        best[sample] = max(best[sample], (float(firsts[first] + lasts[last]), text.strip()))
    seconds = 60 * minutes
    return {**agreement([text for _, text in best], questions), "steps": steps, "epochs": epochs, "seconds": seconds}


def _inputs(encoded: Any, row: int) -> dict[str, Any]:
    return {name: encoded[name][row] for name in ("input_ids", "token_type_ids", "attention_mask")}


def pretrained(minutes: float, paths: dict[str, Path], folder: Path, preset: str) -> Path:
    """An encoder from nothing on Chinese text: what bimo prepare and bimo train make of it."""
    texts = folder / "texts.txt"
    train = dict.fromkeys(question.context for question in read_questions(paths["train"]).kept)
    texts.write_text("\n\n".join(train), encoding="utf-8")
    sources = [str(LM / name) for name in CORPORA]
    _bimo("prepare", *sources, str(texts), "--out", str(folder / "prepared"))
    settings = ("--family", "encoder", "--minutes", str(minutes), "--set", f"model.context={CONTEXT}")
    _bimo("train", str(folder / "prepared"), "--out", str(folder / "start"), *settings, "--preset", preset)
    return folder / "start"


def _bimo(*arguments: str) -> None:
    subprocess.run([*BIMO, *arguments], check=True)


def extract(chosen: argparse.Namespace) -> None:
    """Ours, then the peer, on the same questions."""
    machine = measure_machine(pick_device("cpu"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(chosen.folder or place)
        folder.mkdir(parents=True, exist_ok=True)
        paths = split(chosen.language, folder)
        start = chosen.start or pretrained(chosen.pretrain, paths, folder, chosen.preset)
        longest = LONGEST if chosen.language == "en" else 3 * LONGEST
        found = {
            "bimo": ours(start, paths, chosen.part, chosen.minutes, chosen.rate, folder),
            "transformers": theirs(
                start, paths, chosen.part, chosen.minutes, chosen.their_rate, longest=longest, dtype=machine.dtype
            ),
        }
    comparisons = [
        Comparison(
            f"{chosen.language}, {chosen.part}: {measure}", "%", {who: [one[measure]] for who, one in found.items()}
        )
        for measure in ("exact", "F1")
    ]
    start = {"start": chosen.start.name} if chosen.start else {"pretrain": chosen.pretrain, "preset": chosen.preset}
    settings = {name: getattr(chosen, name) for name in ("language", "part", "minutes", "rate", "their_rate")} | start
    conclude(
        "answer",
        settings=settings,
        machine=machine.facts(),
        packages=("transformers", "torch", "tokenizers"),
        comparisons=comparisons,
        facts=found,
        keep=not chosen.dry,
    )


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=tuple(SOURCES), default="en")
    parser.add_argument("--start", type=Path, help="a BERT folder to begin with")
    parser.add_argument("--pretrain", type=float, default=60.0, help="minutes, where there is no start")
    parser.add_argument("--preset", default="line", help="size of the encoder that is pretrained")
    parser.add_argument("--minutes", type=float, default=4.0, help="of tuning, for each")
    parser.add_argument("--rate", type=float, default=0.0, help="of ours; 0 is its own")
    parser.add_argument("--their-rate", type=float, default=2e-4, help="of the peer; 5e-5 did worse on --part dev")
    parser.add_argument("--part", choices=("dev", "test"), default="test")
    parser.add_argument("--folder", type=Path, help="keep what is made, here")
    parser.add_argument("--dry", action="store_true", help="keep no record")
    chosen = parser.parse_args()
    extract(chosen)


if __name__ == "__main__":
    main()
