"""What was found out about a model, as lines for people."""

from __future__ import annotations

from typing import Any

from bimo.doctor.tokenizer import tokenizer_lines
from bimo.runtime import t

__all__ = ["model_lines"]

KINDS = {
    "folder": "a model folder",
    "gguf": "a GGUF file",
    "safetensors": "a file of weights",
    "adapter": "a LoRA adapter",
    "classifier": "a classifier",
}


def model_lines(facts: dict[str, Any]) -> list[str]:
    """What it is, what can be done with it, what to know, what is wrong."""
    lines = [
        t(
            "{path}: {kind}{family}",
            path=facts["path"],
            kind=t(KINDS[facts["kind"]]),
            family="".join(f", {facts[key]}" for key in ("family", "class", "name") if facts.get(key)),
        )
    ]
    if facts["kind"] == "adapter" and "targets" in facts:
        lines.append(
            t(
                "{parameters:,} parameters: rank {rank}, alpha {alpha}, for {targets} of {base}",
                parameters=facts["adapter_parameters"],
                rank=facts["rank"],
                alpha=facts["alpha"],
                targets=", ".join(facts["targets"]),
                base=facts["base"] or "?",
            )
        )
    if "kv_heads" in facts.get("sizes", {}):
        lines.append(
            t(
                "{parameters:,} parameters: {layers} layers, width {width}, {heads} heads ({kv_heads} for keys and "
                "values) of {head_width}, inner width {hidden}, vocabulary {vocabulary:,}, context {context:,}",
                parameters=facts["parameters"],
                **facts["sizes"],
            )
        )
    elif "decoder_layers" in facts.get("sizes", {}):
        lines.append(
            t(
                "{parameters:,} parameters: {layers} layers that read and {decoder_layers} that write, width {width}, "
                "{heads} heads, inner width {hidden}, vocabulary {vocabulary:,}, context {context:,}",
                parameters=facts["parameters"],
                **facts["sizes"],
            )
        )
    elif "sizes" in facts:
        lines.append(
            t(
                "{parameters:,} parameters: {layers} layers, width {width}, vocabulary {vocabulary:,}, "
                "context {context:,}",
                parameters=facts["parameters"],
                **facts["sizes"],
            )
        )
    elif "parameters" in facts and "targets" not in facts:
        lines.append(
            t(
                "{parameters:,} parameters in {tensors} tensors",
                parameters=facts["parameters"],
                tensors=facts["tensors"],
            )
        )
    if facts.get("bytes_by_format"):
        sizes = (f"{size / 1e6:,.1f} MB {form}" for form, size in facts["bytes_by_format"].items())
        lines.append(t("Numbers: {sizes}", sizes=", ".join(sizes)))
    if "tokenizer" in facts:
        lines += tokenizer_lines(facts["tokenizer"])
    lines += _template_lines(facts)
    if facts.get("generation"):
        chosen = ", ".join(f"{name} {value}" for name, value in facts["generation"].items())
        lines.append(t("Generation settings: {chosen}", chosen=chosen[:200]))
    if "labels" in facts:
        names = ", ".join(facts["labels"][:10]) + (" …" if len(facts["labels"]) > 10 else "")
        lines.append(t("{count:,} labels: {names}", count=len(facts["labels"]), names=names))
    if "head" in facts:
        lines.append(t("An encoder: it reads from both sides and writes nothing. Its head: {kind}", **facts["head"]))
    if facts.get("can"):
        can = t("Bimo can: {can}", can=", ".join(facts["can"]))
        where = {"kernel": t("; it writes in the kernel"), "torch": t("; it writes in torch")}
        lines.append(can + where.get(facts.get("writes_in", ""), ""))
    if facts.get("exports"):
        lines.append(t("Bimo exports it to: {targets}", targets=", ".join(facts["exports"])))
    lines += [f"SHA-256   {digest}  {name}" for name, digest in facts.get("sha256", {}).items()]
    lines += [t("Note: {note}", note=note) for note in facts["notes"]]
    lines += [t("Problem: {problem}", problem=problem) for problem in facts["problems"]]
    return lines


def _template_lines(facts: dict[str, Any]) -> list[str]:
    template = facts.get("template")
    if template is None:
        return []
    if not template["own"]:
        return [t("Chat template: none of its own")]
    if template["rendered"] is None:
        return [t("Chat template: it cannot be used")]
    return [t("Chat template: {text}", text=repr(template["rendered"][:300]))]
