"""What a run leaves on disk, every fact of it, and the pages made from that."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from bimo.report.model_report import write_card, write_report

DOCUMENTS: dict[str, Any] = {
    "files": 1204,
    "files_unreadable": 3,
    "bytes_read": 38_200_000,
    "encodings": {"utf-8": 1190, "gb18030": 14},
    "languages": {
        "zh": {"documents": 7001, "characters": 9_100_000, "bytes": 27_000_000},
        "en": {"documents": 2811, "characters": 4_200_000, "bytes": 4_200_000},
    },
    "train": {"documents": 9321, "characters": 12_600_000, "bytes": 29_600_000},
    "validation": {"documents": 491, "characters": 700_000, "bytes": 1_600_000},
    "rejected": {"duplicate": 1031, "repetition": 140, "too_short": 72},
    "rejected_bytes": {"duplicate": 310_000, "repetition": 90_000, "too_short": 300},
    "near_duplicates": {
        "clusters": 37,
        "examples": [
            {
                "documents": 3,
                "kept": "新稿/一.txt:4",
                "text": "会议决定",
                "other": "旧稿/四.txt:9",
                "other_text": "会议定",
            }
        ],
    },
    "repeated_paragraphs": {"removed": 61, "examples": [["版权所有，未经许可不得转载。", 58]]},
    "rejected_examples": [
        {"source": "旧稿/一.txt", "line": 12, "reason": "duplicate", "detail": "", "text": "会议决定提交。"},
        {"source": "旧稿/二.txt", "line": 3, "reason": "too_short", "detail": "7 < 20", "text": "目录 第一章"},
    ],
    "length_histogram": {
        "edges": [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000],
        "counts": [0, 0, 12, 40, 181, 502, 1204, 2310, 3104, 1500, 700, 259],
    },
    "character_kinds": {
        "han": 8_000_000,
        "latin": 3_300_000,
        "digit": 200_000,
        "punctuation": 1_200_000,
        "space": 500_000,
        "other": 100_000,
    },
    "words": {
        "words": 5_400_000,
        "distinct": 91_000,
        "common": [["研发", 21_300], ["会议", 19_800]],
        "pairs": [["研发部门", 812], ["会议纪要", 311]],
        "growth": [[10, 9], [1_000, 420], [5_400_000, 91_000]],
        "ranks": [[1, 21_300], [10, 2_400], [91_000, 1]],
        "heaps": 0.71,
        "zipf": -1.04,
    },
    "sample": {
        "kept": [{"source": "新稿/五.txt", "line": 8, "reason": "", "detail": "", "text": "下周三之前由研发部提交。"}],
        "rejected": [{"source": "旧稿/九.txt", "line": 1, "reason": "too_short", "detail": "3 < 20", "text": "目录"}],
    },
    "common_characters": [[c, 400_000 // (i + 1)] for i, c in enumerate("的一是了我 不人在他有这个上们来到时大地为")],
}
TOKENIZER = {
    "vocabulary": 8192,
    "characters_per_token": {"zh": 1.61, "en": 4.43},
    "bytes_per_token": 4.87,
    "longest_tokens": ["研发部门负责人", "中华人民共和国", "有限责任公司", "人民政府办公厅"],
    "sample": [["会议", "决定", "，", "下周", "三", "之前", "由", "研发", "部", "提交", "。"], ["二", "\n", " ", "三"]],
    "source": "trained",
}
TOKENS = {
    "train": {"tokens": 6_100_000, "documents": 9321},
    "validation": {"tokens": 330_000, "documents": 491, "bytes": 1_600_000},
}
PLAN = {
    "minutes": 10,
    "machine": {
        "cores": 2,
        "threads": 2,
        "processor": "Xeon 8370C",
        "memory_bytes": 8_200_000_000,
        "matrix_flops": {"float32": 1.1e11, "bfloat16": 3.4e11},
        "dtype": "bfloat16",
    },
    "model": {
        "layers": 6,
        "width": 384,
        "heads": 6,
        "kv_heads": 2,
        "head_width": 64,
        "hidden": 1024,
        "context": 256,
        "vocabulary": 8192,
        "tied": True,
    },
    "train": {"steps": 760, "batch": 16, "context": 256, "learning_rate": 0.0031},
    "parameters": 12_400_000,
    "tokens": 3_110_000,
    "epochs": 0.51,
    "tokens_per_parameter": 0.25,
    "tokens_per_second": 5310,
    "seconds": 576,
    "memory_bytes": 1_400_000_000,
    "disk_bytes": 210_000_000,
    "bits_per_byte": [1.71, 1.83],
    "reasons": ["十分钟内可以读三百万个词元。", "再大的模型来不及学完。"],
}
TRAINING = {
    "seconds": 590.4,
    "tokens": 3_112_960,
    "tokens_per_second": 5273,
    "peak_memory_bytes": 1_320_000_000,
    "steps": 760,
    "resumed": 1,
    "skipped_steps": 2,
    "share_of_peak": 0.78,
}
EVALUATION = {
    "bits_per_byte": 1.762,
    "bits_per_byte_interval": [1.741, 1.785],
    "bits_per_character": 4.021,
    "perplexity": 87.31,
    "context": 256,
    "stride": 128,
    "validation": {"documents": 491, "bytes": 1_600_000, "characters": 700_000, "tokens": 330_000},
    "baselines": {
        "unigram": 3.311,
        "kneser_ney": {"best_order": 5, "bits_per_byte": 2.148, "by_order": {"3": 2.41, "4": 2.202, "5": 2.148}},
        "xz": 2.481,
        "train_bytes_used": 8_000_000,
        "validation_bytes_used": 1_600_000,
    },
    "copying": {
        "samples": 32,
        "window": 50,
        "windows": 12001,
        "windows_copied": 48,
        "share_of_windows_copied": 0.004,
        "longest_run": 83,
        "median_longest_run": 17.5,
        "longest_examples": [{"sample": 3, "length": 83, "text": "由研发部负责人提交书面报告，并抄送办公室。"}],
        "reference_share": 0.006,
    },
    "samples": [
        {
            "prompt": "会议决定",
            "text": "，下周三之前由研发部提交书面报告。办公室负责汇总各部门意见，月底以前报送领导小组。",
        },
        {"prompt": "春天", "text": "来了，山上的雪化成溪水，流过村口的石桥。"},
    ],
}
MANIFEST = {
    "bimo": "0.1.0",
    "data": "data",
    "seed": 20240607,
    "versions": {"python": "3.11.9", "torch": "2.11.0", "tokenizers": "0.22.1"},
    "created": "2025-11-23T15:40:12+00:00",
    "outputs": {"model.safetensors": "ab" * 32, "tokenizer.json": "cd" * 32},
}


def metrics(steps: int = 760) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for step in range(0, steps + 1, 2):
        place = {"step": step, "tokens": 4096 * step, "seconds": 0.776 * step}
        bits = 1.66 + 5.9 * math.exp(-step / 60) + 0.5 * math.exp(-step / 300) + 0.05 * math.sin(step * 1.7)
        events.append({"event": "step", **place, "loss": bits * 3, "bits_per_byte": bits, "learning_rate": 0.003})
        if step % 76 == 0:
            events.append({"event": "validation", **place, "loss": 1, "bits_per_byte": bits + 0.04})
            text = "的的，。一不" if step < 100 else "，下周由各部门提交。"
            events.append({"event": "sample", "step": step, "prompt": "会议决定", "text": text})
    events.append({"event": "skipped", "step": 300, "reason": "nan"})
    return events


def write_facts(folder: Path, **changed: Any) -> Path:
    """A model folder with all facts; a subject given as None is left away, any other value takes its place."""
    subjects = {"manifest": MANIFEST, "plan": PLAN, "training": TRAINING, "evaluation": EVALUATION}
    subjects |= {"documents": DOCUMENTS, "tokenizer": TOKENIZER, "tokens": TOKENS, "metrics": metrics()} | changed
    inside, data = folder / "bimo", folder / "data"
    inside.mkdir(parents=True)
    data.mkdir()
    for name in ("manifest", "plan", "training", "evaluation"):
        if subjects[name] is not None:
            (inside / f"{name}.json").write_text(json.dumps(subjects[name]), encoding="utf-8")
    if subjects["metrics"] is not None:
        lines = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in subjects["metrics"])
        (inside / "metrics.jsonl").write_text(lines + '{"event": "step", "st', encoding="utf-8")
    stages = {name: {"key": "k", "facts": subjects[name]} for name in ("documents", "tokenizer", "tokens")}
    kept = {name: stage for name, stage in stages.items() if stage["facts"] is not None}
    (data / "manifest.json").write_text(json.dumps({"bimo": "0.1.0", "stages": kept}), encoding="utf-8")
    return folder


def report_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def card_of(folder: Path) -> str:
    return write_card(folder).read_text(encoding="utf-8")
