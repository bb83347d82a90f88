"""Training a task's model: the recipe's arithmetic, one seed one result, frozen weights, runs that are cut short."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install .[tune]")

from safetensors.torch import load_file
from tiny import bert, save, tokenizer
from transformers import TrainerCallback

from bertft import score
from bertft.checkpoints.compare import shared_depth
from bertft.checkpoints.edit import freeze
from bertft.checkpoints.load import load_checkpoint
from bertft.data.mnli import LABELS, Pair
from bertft.errors import BertftError, CheckpointError, OptionError
from bertft.files import MANIFEST, folder_lock
from bertft.tasks import TASKS, named_task, trainer
from bertft.tasks.lora import with_lora
from bertft.tasks.optimization import UncorrectedAdamW, learning_rate_factor
from bertft.tasks.task import Records, TrainingRecipe
from bertft.tasks.trainer import checkpoints_in
from bertft.tasks.training import Trained, evaluate, train

WORDS = ("it", "rains", "pours", "not", "always", "the", "sun", "shines", "and", "wind", "blows", ".")
BLOCKS = 3
EPOCHS, BATCH, PAIRS = 2, 8, 36
STEPS = math.ceil(PAIRS / BATCH)  # of an epoch

TASK = named_task("mnli")
RECIPE = dataclasses.replace(TASK.recipes["paper"], epochs=EPOCHS, batch_size=BATCH, learning_rate=1e-3, max_length=24)


def saved_model(folder: Path) -> Path:
    words = tokenizer(WORDS)
    return save(folder, bert(len(words), blocks=BLOCKS), words)


def pairs(count: int, seed: int) -> Records[Pair]:
    """Pairs whose label follows from a word, so that something can be learned."""
    rng = np.random.default_rng(seed)
    items = []
    for number in range(count):
        label = LABELS[number % 3]
        premise = " ".join(rng.choice(WORDS, rng.integers(3, 9)))
        hypothesis = {"contradiction": "not", "entailment": "it", "neutral": "always"}[label]
        items.append(Pair(premise, f"{hypothesis} {rng.choice(WORDS)}", label, f"pairs:{number}"))
    return Records("pairs", tuple(items), "0f")


def trained(
    model_folder: Path, out: Path, *, seed: int = 1, frozen: int = -1, recipe: TrainingRecipe = RECIPE, **options: Any
) -> Trained:
    """One run on the CPU; also what the processes run that are killed."""
    checkpoint = load_checkpoint(model_folder)
    train_pairs, dev = pairs(PAIRS, 0), pairs(12, 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TASK.build(checkpoint, train_pairs)
        freeze(model, frozen)
    return train(TASK, model, checkpoint.tokenizer, train_pairs, dev, out, recipe, seed=seed, **options)


class Kill(TrainerCallback):
    """Ends the process for good after a step, or within the saving of a checkpoint."""

    def __init__(self, step: int, *, saving: bool) -> None:
        self.step = step
        if saving:
            torch.save = self.half_saved

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= self.step and torch.save is not self.half_saved:
            os.kill(os.getpid(), signal.SIGKILL)
        self.now = state.global_step

    def half_saved(self, content: Any, path: str) -> None:
        """Writes whole files until the step, and half of one then."""
        with open(path, "wb") as stream:
            if self.now >= self.step:
                stream.write(b"half")
                stream.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            original_save(content, stream)


original_save = torch.save

if __name__ == "__main__":
    place, step, saving = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "saving"
    trainer.SAVE_SECONDS = 0.0
    trained(place / "model", place / sys.argv[4], callbacks=[Kill(step, saving=saving)])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base, `model`, and an unbroken run, `run`."""
    folder = tmp_path_factory.mktemp("training")
    saved_model(folder / "model")
    trained(folder / "model", folder / "run")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(ours: Path, theirs: Path) -> bool:
    first, second = weights(ours), weights(theirs)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_both_recipes(name: str) -> None:
    task = named_task(name)
    assert task.name == name
    assert list(task.recipes) == ["paper", "today"]
    for recipe in task.recipes.values():
        assert (recipe.warmup, recipe.clip, recipe.betas) == (0.1, 1.0, (0.9, 0.999))


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown task 'ner'; choose one of mnli, squad, dep"):
        named_task("ner")


def test_adam_without_bias_correction() -> None:
    rng = np.random.default_rng(0)
    given = rng.standard_normal(5)
    weight = torch.nn.Parameter(torch.tensor(given))
    optimizer = UncorrectedAdamW([weight], lr=0.1, eps=1e-3, weight_decay=0.01)
    expected, m, v = given.copy(), np.zeros(5), np.zeros(5)
    for rate in (0.1, 0.05, 0.2):
        gradient = rng.standard_normal(5)
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        expected -= rate * (m / (np.sqrt(v) + 1e-3) + 0.01 * expected)
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-12)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["eps"], group["weight_decay"]) == (0.2, 1e-3, 0.01)


def test_the_learning_rate_rises_and_falls() -> None:
    def factors(decay: str) -> list[float]:
        recipe = dataclasses.replace(RECIPE, warmup=0.2, decay_from=decay)
        return [round(learning_rate_factor(recipe, step, 10), 4) for step in range(11)]

    assert factors("start") == [0.0, 0.5, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    assert factors("warmup") == [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0]
    with pytest.raises(OptionError, match="'never'; choose one of start, warmup"):
        factors("never")


def test_a_run_leaves_two_models_and_its_record(place: Path) -> None:
    model_files = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    expected = {f"{name}/{file}" for name in ("best", "last") for file in model_files}
    assert files(place / "run") == expected | {"training.json"}
    record = json.loads((place / "run" / "training.json").read_text())
    assert (record["steps"], record["planned_steps"]) == (EPOCHS * STEPS, EPOCHS * STEPS)
    assert [row["epoch"] for row in record["history"]] == [1, 2]
    assert all(row.keys() == {"epoch", "step", "train_loss", "dev_loss", "accuracy"} for row in record["history"])
    best = max(record["history"], key=lambda row: row["accuracy"])
    assert record["best_epoch"] == best["epoch"]
    checkpoint = load_checkpoint(place / "run" / "best")
    assert checkpoint.model.config.id2label == dict(enumerate(LABELS))


def test_the_best_model_scores_what_the_record_says(place: Path) -> None:
    record = json.loads((place / "run" / "training.json").read_text())
    checkpoint = load_checkpoint(place / "model")
    model = TASK.build(checkpoint, pairs(PAIRS, 0))
    model.load_state_dict(weights(place / "run" / "best"))
    found = evaluate(TASK, model, checkpoint.tokenizer, pairs(12, 1), RECIPE)
    row = record["history"][record["best_epoch"] - 1]
    assert found == {"dev_loss": pytest.approx(row["dev_loss"]), "accuracy": row["accuracy"]}


@pytest.mark.equality
def test_the_seed_decides_alone(place: Path, tmp_path: Path) -> None:
    random.seed(9)
    np.random.seed(9)  # noqa: NPY002
    torch.manual_seed(9)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    trained(place / "model", tmp_path / "again")
    assert same(tmp_path / "again" / "last", place / "run" / "last")
    trained(place / "model", tmp_path / "other", seed=2)
    assert not same(tmp_path / "other" / "last", place / "run" / "last")
    # The generators of the caller are as they were.
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert states[:2] == after[:2]
    assert torch.equal(states[2], after[2])


@pytest.mark.equality
@pytest.mark.parametrize("frozen", [0, 1, BLOCKS - 1])
def test_frozen_blocks_stay_bit_equal_and_score_1(place: Path, tmp_path: Path, frozen: int) -> None:
    made = trained(place / "model", tmp_path / "run", frozen=frozen)
    base, tuned = load_checkpoint(place / "model"), load_checkpoint(made.last)
    before, after = base.model.state_dict(), tuned.model.state_dict()
    fixed = {name for name in before if torch.equal(before[name], after[name])}
    moved = {
        int(name.split(".")[2]) for name in before.keys() - fixed if name.startswith("encoder")
    }  # the gradient of a key's bias is zero but for rounding
    assert moved == set(range(frozen + 1, BLOCKS))
    assert {name for name in before if name.startswith("embeddings")} <= fixed
    assert shared_depth(base.model, tuned.model) == frozen + 1
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{pair.premise}\n" for pair in pairs(30, 2).items))
    values = [row["value"] for row in score(place / "model", [made.last], text, device="cpu").rows]
    assert values[: frozen + 2] == [1.0] * (frozen + 2)
    assert all(0 < value < 1 for value in values[frozen + 2 :])


def test_frozen_parameters_are_not_in_the_optimiser(place: Path, tmp_path: Path) -> None:
    seen: list[Any] = []

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **_: Any) -> None:
            names = {id(parameter): name for name, parameter in model.named_parameters()}
            seen.append(
                {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in optimizer.param_groups}
            )

    trained(place / "model", tmp_path / "run", frozen=1, callbacks=[Look()])
    groups = seen[0]
    assert groups.keys() == {0.01, 0.0}
    assert all("bias" in name or "LayerNorm" in name for name in groups[0.0])
    assert not any("bias" in name or "LayerNorm" in name for name in groups[0.01])
    assert {".".join(name.split(".")[:4]) for name in groups[0.0] | groups[0.01] if "encoder" in name} == {
        "bert.encoder.layer.2"
    }
    assert "classifier.weight" in groups[0.01]


@pytest.mark.parametrize(
    ("step", "when", "kept"),
    [
        pytest.param(STEPS + 2, "stepping", STEPS + 1, id="within an epoch", marks=pytest.mark.equality),
        pytest.param(STEPS, "saving", STEPS - 1, id="while it is saved"),
    ],
)
def test_a_killed_run_ends_as_an_unbroken_one(place: Path, step: int, when: str, kept: int) -> None:
    name = f"killed-{step}-{when}"
    command = [sys.executable, __file__, str(place), str(step), when, name]
    # Another number of threads would split sums differently, and so round differently.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = {path.name for path in (place / name).iterdir()}
    assert left == {"unfinished", ".bertft.lock"}
    with pytest.raises(BertftError, match="holds a run already; resume it"):
        trained(place / "model", place / name)
    begun: list[int] = []

    class First(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            begun.append(state.global_step)

    made = trained(place / "model", place / name, resume=True, callbacks=[First()])
    assert begun == [kept]
    assert files(place / name) == files(place / "run")
    assert same(made.last, place / "run" / "last")
    assert same(made.best, place / "run" / "best")
    unbroken = json.loads((place / "run" / "training.json").read_text())
    for ours, theirs in zip(made.history, unbroken["history"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    assert trained(place / "model", place / name, resume=True).history == made.history  # nothing is done twice


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def torn(*_: Any, **__: Any) -> None:
    raise RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/3")


@pytest.mark.parametrize(
    ("target", "fail"),
    [
        ("torch.save", full),
        ("torch.save", torn),
        ("os.fsync", full),
        ("shutil.copyfile", full),
        ("bertft.tasks.training.write_files", full),
    ],
    ids=["checkpoint", "torch's own error", "manifest", "model", "record"],
)
def test_a_full_disk_leaves_nothing_half_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, fail: Callable[..., None]
) -> None:
    out = tmp_path / "deep" / "run"
    with monkeypatch.context() as patched:
        patched.setattr(target, fail)
        with pytest.raises(BertftError, match=r"run: cannot write there: .*; free space or name another"):
            trained(place / "model", out)
    if target in ("torch.save", "os.fsync"):
        assert not (tmp_path / "deep").exists()
        return
    assert {path.name for path in out.iterdir()} >= {"unfinished"}
    assert not (out / "training.json").exists()
    made = trained(place / "model", out, resume=True)
    assert same(made.last, place / "run" / "last")
    assert files(out) == files(place / "run")


CHECKPOINTS = [STEPS, 2 * STEPS]


@pytest.fixture(scope="module")
def stopped(place: Path) -> Path:
    """A run that was stopped after its second checkpoint, the last of all."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bertft.tasks.training.copy_files", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(place / "model", place / "stopped")
    assert [path.name for path in checkpoints_in(place / "stopped" / "unfinished")] == [
        f"checkpoint-{step}" for step in CHECKPOINTS
    ]
    return place / "stopped"


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("optimizer.pt", Path.unlink),
        ("scheduler.pt", Path.unlink),
        ("rng_state.pth", Path.unlink),
        ("trainer_state.json", lambda path: path.write_text("[" * 100_000)),
        ("model.safetensors", flipped),
        ("model.safetensors", lambda path: os.truncate(path, 5000)),
        ("optimizer.pt", lambda path: path.write_bytes(b"")),
        (MANIFEST, Path.unlink),
        (MANIFEST, lambda path: path.write_text('{"files": {"a": []}}')),
    ],
)
def test_a_damaged_checkpoint_is_refused_for_the_one_before(
    place: Path, stopped: Path, tmp_path: Path, name: str, harm: Callable[[Path], Any]
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    harm(tmp_path / "run" / "unfinished" / f"checkpoint-{CHECKPOINTS[-1]}" / name)
    said: list[str] = []
    made = trained(place / "model", tmp_path / "run", resume=True, say=said.append)
    assert len(said) == 1
    assert f"checkpoint-{CHECKPOINTS[-1]}: " in said[0]
    assert said[0].endswith(f"; it is deleted, and training goes on from checkpoint-{CHECKPOINTS[0]}")
    assert same(made.last, place / "run" / "last")
    assert same(made.best, place / "run" / "best")


def test_a_run_whose_checkpoints_are_all_damaged_begins_anew(place: Path, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    for step in CHECKPOINTS:
        flipped(tmp_path / "run" / "unfinished" / f"checkpoint-{step}" / "model.safetensors")
    said: list[str] = []
    made = trained(place / "model", tmp_path / "run", resume=True, say=said.append)
    assert [line.rpartition(", and ")[2] for line in said] == ["training starts from the beginning"] * 2
    assert same(made.last, place / "run" / "last")


def test_a_resumed_run_has_the_rows_of_an_unbroken_one(place: Path, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    said: list[str] = []
    made = trained(place / "model", tmp_path / "run", resume=True, say=said.append)
    assert said == []
    unbroken = json.loads((place / "run" / "training.json").read_text())
    again = json.loads((tmp_path / "run" / "training.json").read_text())
    assert [list(row.items()) for row in made.history] == [list(row.items()) for row in unbroken["history"]]
    assert again == unbroken


def test_a_run_killed_at_its_end_leaves_nothing_unfinished(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    (tmp_path / "run" / "unfinished" / "checkpoint-5").mkdir(parents=True)
    (tmp_path / "run" / "unfinished" / "checkpoint-5" / "optimizer.pt").write_bytes(b"big")
    trained(place / "model", tmp_path / "run", resume=True)
    assert files(tmp_path / "run") == files(place / "run")
    assert not (tmp_path / "run" / "unfinished").exists()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda run: shutil.rmtree(run / "best"), "best is missing"),
        (lambda run: (run / "last" / "config.json").unlink(), r"last/config\.json is missing"),
        (lambda run: (run / "last" / "model.safetensors").write_bytes(b""), r"last/model\.safetensors has 0 bytes"),
        (lambda run: flipped(run / "best" / "model.safetensors"), r"best/model\.safetensors has changed"),
    ],
)
def test_a_finished_run_without_its_models_says_so(
    place: Path, tmp_path: Path, harm: Callable[[Path], Any], said: str
) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    harm(tmp_path / "run")
    with pytest.raises(BertftError, match=f"run: {said}.*, but the run is finished; restore the models, or delete"):
        trained(place / "model", tmp_path / "run", resume=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"history": [1]}', '{"history": [], "notes": []}'])
def test_a_record_that_is_none_is_refused(place: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(BertftError, match=r"training\.json: no record of a finished run \(.*\); train again"):
        trained(place / "model", tmp_path, resume=True)


def test_two_runs_do_not_share_a_folder(place: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as other, folder_lock(tmp_path / "run"):
        second = other.submit(trained, place / "model", tmp_path / "run", resume=True)
        assert "another run is at work there" in str(second.exception())


def test_a_failure_of_the_trainer_names_the_model(place: Path, tmp_path: Path) -> None:
    class Fails(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            raise self.error

    callback = Fails()
    callback.error = IndexError("index out of range in self\nmore")
    with pytest.raises(
        CheckpointError, match=r"model: cannot be trained or run on mnli: IndexError: index out of range"
    ):
        trained(place / "model", tmp_path / "run", callbacks=[callback])
    for error in (KeyboardInterrupt(), torch.OutOfMemoryError("CUDA out of memory."), MemoryError()):
        callback.error = error
        with pytest.raises(type(error)):
            trained(place / "model", tmp_path / "run", resume=True, callbacks=[callback])


def test_progress_counts_steps_and_batches_of_dev(place: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    trained(place / "model", tmp_path / "run", progress=lambda *step: seen.append(step))
    total = EPOCHS * STEPS
    assert seen[:STEPS] == [(step, total, "epoch 1 of 2") for step in range(1, STEPS + 1)]
    assert seen[STEPS] == (1, 1, "dev after epoch 1 of 2")
    assert seen[-2:] == [(total, total, "epoch 2 of 2"), (1, 1, "dev after epoch 2 of 2")]


def test_adapters_leave_the_body_as_it_is(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    checkpoint = load_checkpoint(place / "model")
    records = pairs(PAIRS, 0)
    torch.manual_seed(0)
    model = with_lora(TASK.build(checkpoint, records), 2, first_block=1)
    free = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {name for name in free if "lora_" in name}
    assert {name.split("layer.")[1][0] for name in adapters} == {"1", "2"}
    assert free - adapters == {
        name for name in free if "modules_to_save" in name and ("pooler" in name or "cl" in name)
    }
    made = train(TASK, model, checkpoint.tokenizer, records, pairs(12, 1), tmp_path / "run", RECIPE, seed=1)
    assert files(made.best) == {
        *("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json")
    }
    saved = json.loads((made.best / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str((place / "model").resolve())
    assert all(
        "lora_" in name or "pooler" in name or "classifier" in name
        for name in load_file(made.best / "adapter_model.safetensors")
    )
    with pytest.raises(OptionError, match="no block is left for adapters from block 3 on"):
        with_lora(TASK.build(checkpoint, records), 2, first_block=BLOCKS)
