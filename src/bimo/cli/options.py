"""Arguments and options that several commands have, each with the same name and meaning everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bimo.runtime import t

__all__ = [
    "AdapterFolder",
    "Allow",
    "Chinese",
    "Choices",
    "ControlColumns",
    "Controls",
    "Device",
    "Family",
    "Json",
    "JsonSchema",
    "KeepBest",
    "Lang",
    "MaxTokens",
    "MinP",
    "Minutes",
    "ModelPath",
    "Out",
    "Preset",
    "Quiet",
    "Redact",
    "Reference",
    "Regex",
    "RepetitionPenalty",
    "Seed",
    "Source",
    "Sources",
    "Start",
    "Stop",
    "Strict",
    "Target",
    "Temperature",
    "TextColumn",
    "TokenizerPath",
    "TopK",
    "TopP",
    "Vocabulary",
    "Words",
]

Source = Annotated[str, typer.Option("--source", help=t("Pairs: the column, or the language, to translate from."))]
Target = Annotated[str, typer.Option("--target", help=t("Pairs: the column, or the language, to translate into."))]
Start = Annotated[
    str, typer.Option("--from", help=t("A model folder to go on with, instead of beginning with nothing."))
]
Sources = Annotated[
    list[Path], typer.Argument(metavar="SOURCE...", readable=False, help=t("Files and folders of text."))
]
Out = Annotated[Path, typer.Option("--out", help=t("The folder to write."))]
Json = Annotated[bool, typer.Option("--json", help=t("Print the result as JSON."))]
Quiet = Annotated[bool, typer.Option("--quiet", help=t("Nothing but warnings."))]
Minutes = Annotated[float, typer.Option("--minutes", help=t("How long training may take."))]
Preset = Annotated[str, typer.Option("--preset", help=t("A size by name instead of the one that the plan chooses."))]
Seed = Annotated[int, typer.Option("--seed", help=t("Start of all random numbers."))]
Family = Annotated[str, typer.Option("--family", help=t("What kind of model: decoder, lstm, mlp or encoder."))]
Device = Annotated[str, typer.Option("--device", help=t("auto, cpu, cuda or mps."))]
Lang = Annotated[str, typer.Option("--lang", help=t("Keep only documents in these languages, such as zh,en."))]
Allow = Annotated[str, typer.Option("--allow", help=t("Turn rules off by their reasons, such as links,repetition."))]
Chinese = Annotated[str, typer.Option("--chinese", help=t("Bring Chinese into one script: simplified or traditional."))]
Strict = Annotated[bool, typer.Option("--strict", help=t("Stop at the first file or row that cannot be read."))]
TextColumn = Annotated[str, typer.Option("--text-column", help=t("The column of tables that holds the text."))]
TokenizerPath = Annotated[str, typer.Option("--tokenizer", help=t("Use this tokenizer.json instead of training one."))]
Vocabulary = Annotated[int, typer.Option("--vocabulary", help=t("Tokens of the tokenizer; 0 chooses by the text."))]
Reference = Annotated[
    list[Path] | None,
    typer.Option("--reference", readable=False, help=t("Good text: what is most like it is kept, see --keep-best.")),
]
KeepBest = Annotated[float, typer.Option("--keep-best", help=t("The share of each language to keep, from 0 to 1."))]
Words = Annotated[Path | None, typer.Option("--words", readable=False, help=t("A file of words to keep whole."))]
Redact = Annotated[
    str, typer.Option("--redact", help=t("Personal data and secrets: report, mask, pseudonymise or drop."))
]
ModelPath = Annotated[Path, typer.Argument(readable=False, help=t("A model folder, or a GGUF file."))]
AdapterFolder = Annotated[
    Path | None,
    typer.Option("--adapter", readable=False, help=t("An adapter to add to the model, from bimo tune or PEFT.")),
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help=t("At most so many tokens."))]
Temperature = Annotated[float, typer.Option("--temperature", help=t("0 takes the likeliest token always."))]
TopK = Annotated[int, typer.Option("--top-k", help=t("Choose among the k likeliest; 0 among all."))]
TopP = Annotated[float, typer.Option("--top-p", help=t("Choose among those that reach this sum."))]
MinP = Annotated[float, typer.Option("--min-p", help=t("Leave out those below this share of the best."))]
RepetitionPenalty = Annotated[
    float, typer.Option("--repetition-penalty", help=t("Above 1: avoid what was written already."))
]
Stop = Annotated[list[str] | None, typer.Option("--stop", help=t("End before this text."))]
Regex = Annotated[
    str | None, typer.Option("--regex", help=t("Write only what this regular expression matches as a whole."))
]
JsonSchema = Annotated[
    Path | None,
    typer.Option("--json-schema", readable=False, help=t("Write JSON that the schema in this file accepts.")),
]
Choices = Annotated[
    list[str] | None, typer.Option("--choice", help=t("Write one of these texts; give it several times."))
]
ControlColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--control", help=t("A column of tables to learn as a tag, by which bimo generate --set steers; repeatable.")
    ),
]
Controls = Annotated[
    list[str] | None, typer.Option("--set", help=t("Write with this tag, such as genre=news; for models of --control."))
]
