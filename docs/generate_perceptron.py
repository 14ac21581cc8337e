"""Writes perceptron.md beside this file: a perceptron of three inputs, two hidden units and one output by hand.

Run: python docs/generate_perceptron.py. Every number in the page is computed here, by the module that classifiers use.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from bimo.models.perceptron import MultiLayerPerceptron

INPUTS, TARGET, RATE = [1.0, 2.0, -1.0], 1.0, 0.1
HIDDEN_WEIGHTS, HIDDEN_BIAS = [[0.5, -0.2, 0.1], [0.3, 0.4, -0.6]], [0.1, -0.2]
OUTPUT_WEIGHTS, OUTPUT_BIAS = [[0.7, -0.5]], [0.2]


def start() -> MultiLayerPerceptron:
    """The perceptron before it learns."""
    model = MultiLayerPerceptron([3, 2, 1]).double()
    with torch.no_grad():
        for weight, values in zip(
            model.parameters(), (HIDDEN_WEIGHTS, HIDDEN_BIAS, OUTPUT_WEIGHTS, OUTPUT_BIAS), strict=True
        ):
            weight.copy_(torch.tensor(values))
    return model


def number(x: float | Tensor) -> str:
    """At most four digits behind the point, with a true minus."""
    text = f"{torch.as_tensor(x).item():.4f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text.replace("-", "−")


def factor(x: float | Tensor) -> str:
    """A number as it stands in a product."""
    return f"({number(x)})" if x < 0 else number(x)


def products(pairs: Iterable[tuple[Tensor, Tensor]], last: Tensor) -> str:
    """a · b + c · d + last"""
    return " + ".join([*(f"{factor(a)} · {factor(b)}" for a, b in pairs), factor(last)])


def table(rows: list[tuple[str, str, str]]) -> str:
    """What is computed, its formula, its numbers."""
    lines = ["| | formula 公式 | numbers 数值 |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def page() -> str:
    """The page."""
    model, x, y = start(), torch.tensor(INPUTS).double(), torch.tensor(TARGET).double()
    hidden, output = model.layers
    W, b, v, c = hidden.weight, hidden.bias, output.weight[0], output.bias[0]
    z = hidden(x)
    h = z.relu()
    said = model(x)[0]
    loss = (said - y) ** 2 / 2
    loss.backward()
    with torch.no_grad():
        forward = [
            *(
                (
                    f"hidden unit {i + 1} 隐藏单元",
                    f"z{i + 1} = Σⱼ W{i + 1}ⱼ xⱼ + b{i + 1}",
                    f"{products(zip(W[i], x, strict=True), b[i])} = **{number(z[i])}**",
                )
                for i in range(2)
            ),
            *(
                (
                    "activation 激活 (ReLU)",
                    f"h{i + 1} = max(0, z{i + 1})",
                    f"max(0, {number(z[i])}) = **{number(h[i])}**",
                )
                for i in range(2)
            ),
            ("output 输出", "ŷ = Σᵢ vᵢ hᵢ + c", f"{products(zip(v, h, strict=True), c)} = **{number(said)}**"),
            ("loss 损失", "L = (ŷ − y)² / 2", f"({number(said)} − {number(y)})² / 2 = **{number(loss)}**"),
        ]
        # By the chain rule, from the end to the beginning; what autograd found must be the same.
        toward_said = said - y
        toward_h = toward_said * v
        toward_z = toward_h * (z > 0)
        by_hand = [torch.outer(toward_z, x), toward_z, (toward_said * h)[None], toward_said[None]]
        for weight, gradient in zip(model.parameters(), by_hand, strict=True):
            torch.testing.assert_close(weight.grad, gradient)
        backward = [
            (
                "error at the output 输出误差",
                "∂L/∂ŷ = ŷ − y",
                f"{number(said)} − {number(y)} = **{number(toward_said)}**",
            ),
            *(
                (
                    f"output weight {i + 1} 输出权重",
                    f"∂L/∂v{i + 1} = ∂L/∂ŷ · h{i + 1}",
                    f"{factor(toward_said)} · {factor(h[i])} = **{number(v_gradient)}**",
                )
                for i, v_gradient in enumerate(by_hand[2][0])
            ),
            ("output bias 输出偏置", "∂L/∂c = ∂L/∂ŷ", f"**{number(toward_said)}**"),
            *(
                (
                    f"error at hidden unit {i + 1} 隐藏误差",
                    f"δ{i + 1} = ∂L/∂ŷ · v{i + 1} · [z{i + 1} > 0]",
                    f"{factor(toward_said)} · {factor(v[i])} · {int(z[i] > 0)} = **{number(toward_z[i])}**",
                )
                for i in range(2)
            ),
            *(
                (
                    f"hidden weights {i + 1} 隐藏权重",
                    f"∂L/∂W{i + 1}ⱼ = δ{i + 1} xⱼ",
                    f"{factor(toward_z[i])} · ({', '.join(map(number, x))}) "
                    f"= **({', '.join(map(number, by_hand[0][i]))})**",
                )
                for i in range(2)
            ),
            ("hidden biases 隐藏偏置", "∂L/∂bᵢ = δᵢ", f"**({', '.join(map(number, toward_z))})**"),
        ]
        before = [weight.clone() for weight in (*v, *W[0], *W[1])]
        torch.optim.SGD(model.parameters(), lr=RATE).step()
        names = ["v1", "v2", *(f"W{i}{j}" for i in (1, 2) for j in (1, 2, 3))]
        gradients = [*by_hand[2][0], *by_hand[0].flatten()]
        moved = [
            (name, f"{name} − η ∂L/∂{name}", f"{number(old)} − {RATE} · {factor(g)} = **{number(new)}**")
            for name, old, g, new in zip(names, before, gradients, (*v, *W[0], *W[1]), strict=True)
        ]
        moved += [
            (
                "c, b1, b2",
                "likewise 同理",
                f"**{number(c)}**, **{number(b[0])}**, **{number(b[1])}**",
            )
        ]
        after = model(x)[0]
        loss_after = (after - y) ** 2 / 2
    return f"""# A perceptron by hand: 感知机

Made by `python docs/generate_perceptron.py`; do not edit. Three inputs, two hidden units, one output: small enough for
every number to stand here, and all that a network with billions of weights does in training. The numbers are those of
`MultiLayerPerceptron([3, 2, 1])` in `src/bimo/models/perceptron.py`; the gradients are worked out by the chain rule and
compared with what torch found, when this page is made.

Input 输入 x = ({", ".join(map(number, x))}), target 目标 y = {number(y)}.
Weights 权重: W1 = ({", ".join(map(number, HIDDEN_WEIGHTS[0]))}), W2 = ({", ".join(map(number, HIDDEN_WEIGHTS[1]))}),
b = ({", ".join(map(number, HIDDEN_BIAS))}), v = ({", ".join(map(number, OUTPUT_WEIGHTS[0]))}),
c = {number(OUTPUT_BIAS[0])}.

```
 x1 ─┬──▶ h1 ─╮
 x2 ─┼        ├──▶ ŷ ──▶ L
 x3 ─┴──▶ h2 ─╯
 input   hidden layer   output   loss
 输入层    隐藏层          输出层    损失
```

## Forward: what it says (前向传播)

{table(forward)}

## Backward: who is to blame (反向传播)

The loss says how wrong the output is. The chain rule (链式法则) hands that blame back, through each weight in
proportion to what went through it. A unit that said nothing, z ≤ 0, gets none of it.

{table(backward)}

## One step: a little less wrong (梯度下降)

Each weight moves against its gradient, by the learning rate (学习率) η = {RATE}.

{table(moved)}

The same input again: ŷ = {number(after)} instead of {number(said)}, and the loss falls from {number(loss)} to
**{number(loss_after)}**. Training is this, over and over, on many examples.

## From here to a language model (语言模型)

The input becomes the last N tokens, each as a vector that is learned (词向量, embedding), side by side; the output
becomes a number for every token of the vocabulary, made into probabilities by softmax; the loss is the cross-entropy
(交叉熵), the surprise at the token that really came next. That is the model of Bengio et al. (2003), `Perceptron` in
the same file: `bimo train DATA --out MODEL --family mlp`. It forgets what has left its window. A recurrent network
(循环神经网络, `src/bimo/models/recurrent.py`, `--family lstm`) carries a state instead, and attention (注意力,
`src/bimo/models/transformer.py`) looks back at all of it.
"""


if __name__ == "__main__":
    Path(__file__).with_name("perceptron.md").write_text(page(), encoding="utf-8")
