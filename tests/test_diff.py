"""Changes of weights against float64 NumPy on the saved files, and what is equal, missing, added or of another kind."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from bertft import cli
from bertft.errors import CheckpointError
from bertft.experiments.diff import diff
from bertft.report import diff as report

WORDS = ["rain", "falls"]
SIZE = len(WORDS) + 4


def saved(
    folder: Path, change: Callable[[str, Tensor], Tensor | None] = lambda _, tensor: tensor, prefix: str = ""
) -> Path:
    """A BERT with a tokenizer, whose tensors are changed, or left out where the change is None."""
    tiny.save(folder, tiny.bert(SIZE, blocks=3), tiny.tokenizer(WORDS))
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if (new := change(name, tensor)) is not None:
            tensors[f"{prefix}{name}"] = new.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def noisy(scale: float, only: str = "") -> Callable[[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)

    def change(name: str, tensor: Tensor) -> Tensor:
        noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        return tensor + scale * noise if only in name else tensor

    return change


def expected(base: Path, tuned: Path, inside: str) -> float:
    """The relative change of the tensors whose name has a part, in float64."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (base, tuned))
    pairs = [(ours[name].double().numpy(), theirs[name].double().numpy()) for name in ours if inside in name]
    change = math.sqrt(sum(((two - one) ** 2).sum() for one, two in pairs))
    return change / math.sqrt(sum((one**2).sum() for one, _ in pairs))


def test_changes_equal_those_of_numpy(tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    tuned = saved(tmp_path / "tuned", noisy(0.01))
    found = diff(base, tuned, spectral=True)
    rows = {(row["layer"], row["kind"]): row for row in found.rows}
    assert [layer for layer, kind in rows if kind == "all"] == [0, 1, 2, 3, None]
    for layer in (1, 2, 3):
        at = f"encoder.layer.{layer - 1}."
        assert rows[layer, "all"]["relative_change"] == pytest.approx(expected(base, tuned, at), rel=1e-12)
        query = rows[layer, "attention.self.query"]
        assert query["relative_change"] == pytest.approx(expected(base, tuned, f"{at}attention.self.query."), rel=1e-12)
        assert (query["n_tensors"], query["n_equal"], query["n_parameters"]) == (2, 0, 16 * 16 + 16)
        name = f"{at}attention.self.query.weight"
        ours, theirs = (load_file(folder / "model.safetensors")[name].double().numpy() for folder in (base, tuned))
        singular = np.linalg.svd(theirs - ours, compute_uv=False)
        assert query["spectral_norm"] == pytest.approx(singular[0], rel=1e-9)
        assert query["stable_rank"] == pytest.approx((singular**2).sum() / singular[0] ** 2, rel=1e-9)
    assert rows[0, "all"]["relative_change"] == pytest.approx(expected(base, tuned, "embeddings."), rel=1e-12)
    assert found.equal == []
    assert found.run["notes"] == []


def test_what_is_equal_is_found_under_any_prefix(tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    body = tiny.bert(SIZE, blocks=3)
    head = transformers.BertForSequenceClassification(body.config)
    head.bert.load_state_dict(body.state_dict())
    head.save_pretrained(tmp_path / "head")
    wrapped = saved(tmp_path / "wrapped", noisy(0.1, only="layer.2.output"), prefix="_orig_mod.")
    found = diff(base, [tmp_path / "head", wrapped])
    assert found.equal == ["head"]
    changed = {(row["layer"], row["kind"]) for row in found.rows if row["tuned"] == "wrapped" and row["change"] > 0}
    assert changed == {(3, "all"), (3, "output.dense"), (3, "output.LayerNorm")}
    assert found.run["notes"] == ["head: all weights equal the base's, bit for bit"]


def test_tensors_without_a_counterpart_are_listed_and_enter_no_row(tmp_path: Path) -> None:
    def change(name: str, tensor: Tensor) -> Tensor | None:
        if name == "encoder.layer.1.output.dense.bias":
            return None
        if name == "embeddings.word_embeddings.weight":
            return torch.cat([tensor, tensor[:2]])
        return tensor.half() if name == "pooler.dense.weight" else tensor

    base = saved(tmp_path / "base")
    found = diff(base, saved(tmp_path / "tuned", change))
    listed = found.run["tensors"]["tuned"]
    assert listed == {
        "missing": ["encoder.layer.1.output.dense.bias"],
        "added": [],
        "other shape": [f"embeddings.word_embeddings.weight [{SIZE}, 16] → [{SIZE + 2}, 16]"],
        "other type": ["pooler.dense.weight float32 → float16"],
        "same": False,
    }
    assert found.equal == []
    assert "word_embeddings" not in {row["kind"] for row in found.rows}
    assert {note.partition(": ")[2].partition(",")[0] for note in found.run["notes"]} == {
        "1 tensors of the base are missing",
        "1 tensors have another shape",
        "1 tensors have another type",
    }


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e200])
def test_norms_do_not_overflow(scale: float, tmp_path: Path) -> None:
    base = saved(tmp_path / "base", lambda _, tensor: tensor.double() * scale)
    tuned = saved(tmp_path / "tuned", lambda _, tensor: tensor.double() * scale * 1.5)
    values = [row["relative_change"] for row in diff(base, tuned).rows if row["norm"]]
    assert values == pytest.approx([0.5] * len(values))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    def change(name: str, tensor: Tensor) -> Tensor:
        return torch.full_like(tensor, value) if name == "encoder.layer.0.output.dense.weight" else tensor

    base = saved(tmp_path / "base")
    found = diff(base, saved(tmp_path / "tuned", change))
    assert found.run["notes"] == [
        "tuned: 1 tensors hold values that are not finite, such as encoder.layer.0.output.dense.weight"
    ]
    both = diff(saved(tmp_path / "also", change), tmp_path / "tuned")
    assert both.equal == ["tuned"]  # bit for bit, a nan equals itself


def test_models_of_other_architectures_are_refused(tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    other = tiny.build(transformers.GPT2Config(**tiny.shape(SIZE)))
    tiny.save(tmp_path / "gpt", other, tiny.tokenizer(WORDS))
    with pytest.raises(CheckpointError, match=r"base and gpt have no tensor in common, such as .*one architecture"):
        diff(base, tmp_path / "gpt")


def test_blocks_of_two_stacks_are_told_apart(tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=SIZE, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
    for name in ("base", "tuned"):
        model = transformers.T5Model(config)
        model.save_pretrained(tmp_path / name)
    kinds = {row["kind"] for row in diff(tmp_path / "base", tmp_path / "tuned").rows if row["part"] == "block"}
    assert {"encoder.block: layer.0.SelfAttention.q", "decoder.block: layer.0.SelfAttention.q"} <= kinds


def test_the_report_has_a_table_a_finding_and_files(tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    found = diff(base, [saved(tmp_path / "[b]odd", noisy(0.01, only="layer.2.")), saved(tmp_path / "same")])
    console = Console(file=io.StringIO(), width=100)
    report.show(found.rows, found.run, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[b]odd: the weights of layers 0–2 are unchanged; those of layer 3 have changed most" in said
    assert "same: the weights of all layers equal the base's, bit for bit." in said
    files = ["weights.json", "weights.csv", "run.json", "weights.png", "report.html"]
    assert [path.name for path in found.save(tmp_path / "out")] == files
    read = json.loads((tmp_path / "out" / "weights.json").read_text())
    assert len(read["rows"]) == len(found.rows)


def test_the_command_prints_writes_and_fails_where_nothing_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("base"))
    saved(Path("same"))
    saved(Path("tuned"), noisy(0.01))
    assert cli.main(["diff", "base", "tuned", "--output-dir", "out", "--fail-if-equal"]) == 0
    assert "those of layer" not in capsys.readouterr().out  # every layer has changed
    written = sorted(path.name for path in Path("out").iterdir())
    assert written == [".bertft.json", "report.html", "run.json", "weights.csv", "weights.json", "weights.png"]
    assert cli.main(["diff", "base", "tuned", "same", "--fail-if-equal", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["run"]["tensors"]["same"]["same"]
    assert err.endswith("bertft: all weights of same equal those of base, bit for bit\n")
    assert cli.main(["diff", "base", "same"]) == 0


def test_checkpoints_of_one_name_are_told_apart(tmp_path: Path) -> None:
    base = saved(tmp_path / "a" / "best")
    found = diff(base, [saved(tmp_path / "b" / "best", noisy(0.01)), base])
    assert list(found.run["tensors"]) == ["b/best", "a/best (2)"]
    assert found.equal == ["a/best (2)"]
