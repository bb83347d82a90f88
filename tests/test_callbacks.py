"""The callback inside real Trainers of tiny random models: what it logs, and that training does not notice it."""

from __future__ import annotations

import copy
import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install .[tune]")

import transformers
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import rewrite_logs

from bertft import RSACallback, score
from bertft.checkpoints.anatomy import find_body
from bertft.data import corpus_from_texts
from bertft.errors import CheckpointError, OptionError, UndefinedWarning
from bertft.experiments.callback import START

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "rain"]
FAMILIES = {
    **{
        name: partial(tiny.FAMILIES[name], len(WORDS), initializer_range=0.3)
        for name in ("bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert")
    },
    "minilm": lambda: tiny.FAMILIES["bert"](
        len(WORDS), initializer_range=0.3, num_attention_heads=16, num_hidden_layers=6
    ),
}


def some_texts(count: int, seed: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(4, len(WORDS), (6,), generator=generator).tolist() for _ in range(count)]
    return [" ".join(WORDS[word] for word in words[: 2 + index % 5]) for index, words in enumerate(drawn)]


TEXTS = some_texts(40, seed=0)


def tokenizer() -> PreTrainedTokenizerFast:
    return tiny.tokenizer(WORDS[4:], model_input_names=["input_ids", "attention_mask"], model_max_length=32)


def classifier(family: str = "bert") -> PreTrainedModel:
    config = FAMILIES[family]()
    head = type(config).__name__.replace("Config", "ForSequenceClassification")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = getattr(transformers, head)(config)
    return model


class Watch(TrainerCallback):
    """Keeps what reaches the callbacks' `on_log`, which is how TensorBoard and its like hear of a number."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.logs: list[dict[str, float]] = []
        self.stop_at = stop_at

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logs.append(dict(logs))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_training_stop |= round(state.epoch) == self.stop_at
        return control


def made_trainer(folder: Path, model: Any = None, watch: Watch | None = None, **options: Any) -> Trainer:
    pieces = tokenizer()
    examples = [{"labels": int("cat" in text), **pieces(text)} for text in some_texts(24, seed=1)]
    settings = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 5,
    }
    return Trainer(
        model=classifier() if model is None else model,
        args=TrainingArguments(**settings | options),
        train_dataset=examples,
        eval_dataset=examples[:8],
        data_collator=DataCollatorWithPadding(pieces),
        processing_class=pieces,
        callbacks=[] if watch is None else [watch],
    )


def logged(trainer: Trainer, name: str = "rsa") -> list[list[float]]:
    """What was logged at each evaluation, by layer."""
    found = []
    for entry in trainer.state.log_history:
        numbers = {int(key.rpartition("_")[2]): value for key, value in entry.items() if key.startswith(f"{name}/")}
        if numbers:
            assert list(numbers) == sorted(numbers)
            found.append(list(numbers.values()))
    return found


def added(trainer: Trainer, callback: RSACallback) -> RSACallback:
    trainer.add_callback(callback)
    return callback


def called_by(self: Trainer, event: str, callback: RSACallback, **given: Any) -> None:
    """An event as a Trainer raises it: a callback finds the Trainer as the `self` of a caller."""
    getattr(callback, event)(self.args, self.state, self.control, model=self.model, **given)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Watch, RSACallback, PreTrainedModel]:
    """One training of two epochs with everything at its default."""
    model = classifier()
    watch = Watch()
    trainer = made_trainer(tmp_path_factory.mktemp("run"), copy.deepcopy(model), watch, save_strategy="epoch")
    callback = added(trainer, RSACallback(TEXTS))
    trainer.train()
    return trainer, watch, callback, model


def test_every_evaluation_is_logged_where_all_logs_go(run: tuple[Trainer, Watch, RSACallback, PreTrainedModel]) -> None:
    trainer, watch, _, _ = run
    values = logged(trainer)
    assert [len(layers) for layers in values] == [4, 4]
    assert all(-1 < value < 1 for layers in values for value in layers)
    entries = [entry for entry in trainer.state.log_history if "rsa/layer_0" in entry]
    assert [(entry["epoch"], entry["step"]) for entry in entries] == [(1.0, 3), (2.0, 6)]
    heard = [[value for key, value in logs.items() if key.startswith("rsa/")] for logs in watch.logs]
    assert [layers for layers in heard if layers] == values


@pytest.mark.equality
def test_the_numbers_are_those_of_score(
    run: tuple[Trainer, Watch, RSACallback, PreTrainedModel], tmp_path: Path
) -> None:
    trainer, _, _, start = run
    for name, model in (("start", start), ("end", trainer.model)):
        model.base_model.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    scores = score(tmp_path / "start", tmp_path / "end", TEXTS, tokens=2000, sentences=200)
    assert logged(trainer)[-1] == pytest.approx([row["value"] for row in scores.rows], abs=1e-6)


def test_what_is_kept_is_bounded_by_the_draw(run: tuple[Trainer, Watch, RSACallback, PreTrainedModel]) -> None:
    _, _, callback, _ = run
    assert callback.kept_bytes == sum(len(text.split()) for text in TEXTS) * 4 * 32 * 4
    assert RSACallback(TEXTS).kept_bytes == 0


@pytest.mark.equality
def test_training_does_not_notice(run: tuple[Trainer, Watch, RSACallback, PreTrainedModel], tmp_path: Path) -> None:
    trainer, _, _, start = run
    without = made_trainer(tmp_path, copy.deepcopy(start))
    without.train()
    ours, theirs = trainer.model.state_dict(), without.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert start.config.hidden_dropout_prob > 0


def test_modules_keep_their_modes(tmp_path: Path) -> None:
    trainer = made_trainer(tmp_path, num_train_epochs=1)
    callback = added(trainer, RSACallback(TEXTS))
    trainer.train()
    model = trainer.model
    model.train()
    model.bert.encoder.layer[0].train(False)
    before = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    trainer.state.global_step += 1
    callback.on_evaluate(trainer.args, trainer.state, trainer.control, model=model)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_step_is_scored_once(tmp_path: Path) -> None:
    trainer = made_trainer(tmp_path, num_train_epochs=1)
    trainer.add_callback(RSACallback(TEXTS))
    trainer.evaluate()  # before any training there is nothing to compare with
    trainer.train()
    trainer.evaluate()
    assert len(logged(trainer)) == 1


@pytest.mark.parametrize("early", [True, False], ids=["among the callbacks", "added"])
def test_it_is_added_like_any_callback(tmp_path: Path, early: bool) -> None:
    """Services hear of the values whether they come before or after it among the callbacks."""
    before, after = Watch(), Watch()
    callback = RSACallback(TEXTS)
    trainer = made_trainer(tmp_path, None, before, num_train_epochs=1)
    if early:
        trainer.callback_handler.callbacks.insert(0, callback)
    else:
        trainer.add_callback(callback)
    trainer.add_callback(after)
    trainer.train()
    (values,) = logged(trainer)
    for watch in (before, after):
        heard = [logs for logs in watch.logs if any(name.startswith("rsa/") for name in logs)]
        assert [list(logs) for logs in heard] == [[*(f"rsa/layer_{layer}" for layer in range(4)), "epoch"]]
        assert list(heard[0].values()) == [*values, 1.0]
        # This is what TensorBoard and W&B make of names.
        assert list(rewrite_logs(heard[0]))[:2] == ["train/rsa/layer_0", "train/rsa/layer_1"]


def said_once(caught: list[warnings.WarningMessage]) -> bool:
    return sum("evaluates nothing" in str(warning.message) for warning in caught) == 1


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"save_strategy": "no"}, [6]),
        ({"save_strategy": "steps", "save_steps": 2}, [2, 4, 6]),
        ({"save_strategy": "steps", "save_steps": 4}, [4, 6]),
        ({"save_strategy": "epoch"}, [3, 6]),
        ({"save_strategy": "no", "max_steps": 4}, [4]),
    ],
)
def test_without_evaluation_it_scores_saves_and_the_end(
    tmp_path: Path, options: dict[str, Any], steps: list[int]
) -> None:
    logging = {"eval_strategy": "no", "logging_strategy": "steps", "logging_steps": 1}
    trainer = made_trainer(tmp_path, **logging, **options)
    callback = added(trainer, RSACallback(TEXTS))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
        assert [entry["step"] for entry in trainer.state.log_history if "rsa/layer_0" in entry] == steps
        losses = [entry["step"] for entry in trainer.state.log_history if "loss" in entry]
        assert losses == list(range(1, steps[-1] + 1))
        assert said_once(caught)
        trainer.state.global_step = 0
        called_by(trainer, "on_train_begin", callback, processing_class=tokenizer())
        assert said_once(caught)
    # What was logged at a save is in what was saved.
    for saved in tmp_path.glob("checkpoint-*"):
        history = TrainerState.load_from_json(str(saved / "trainer_state.json")).log_history
        assert [entry["step"] for entry in history if "rsa/layer_0" in entry][-1] == int(saved.name.partition("-")[2])


class Stop(TrainerCallback):
    """Stops at a step, when the callbacks before it have seen the step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_training_stop |= state.global_step == 2
        return control


@pytest.mark.filterwarnings("ignore:this training evaluates nothing:UserWarning")
def test_without_evaluation_it_scores_an_early_end(tmp_path: Path) -> None:
    trainer = made_trainer(tmp_path, eval_strategy="no")
    trainer.add_callback(RSACallback(TEXTS))
    trainer.add_callback(Stop())
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "rsa/layer_0" in entry] == [2]


def test_with_evaluation_nothing_else_is_scored_or_said(tmp_path: Path) -> None:
    trainer = made_trainer(tmp_path, save_strategy="steps", save_steps=1, max_steps=4)
    trainer.add_callback(RSACallback(TEXTS))
    trainer.train()  # warnings are errors in tests
    assert [entry["step"] for entry in trainer.state.log_history if "rsa/layer_0" in entry] == [3, 4]


@pytest.mark.equality
def test_before_the_first_step_all_is_one(tmp_path: Path) -> None:
    trainer = made_trainer(tmp_path, num_train_epochs=1, eval_on_start=True)
    trainer.add_callback(RSACallback(TEXTS, measures=("rsa", "cka", "mean-cosine-tuned"), layers="1,-1"))
    trainer.train()
    assert logged(trainer)[0] == logged(trainer, "cka")[0] == [1.0, 1.0]
    assert max(logged(trainer)[1] + logged(trainer, "cka")[1]) < 1
    assert all(-1 < value < 1 for values in logged(trainer, "mean-cosine-tuned") for value in values)


@pytest.mark.equality
def test_frozen_layers_are_exactly_one(tmp_path: Path) -> None:
    model = classifier()
    for part in (model.bert.embeddings, model.bert.encoder.layer[0], model.bert.encoder.layer[1]):
        part.requires_grad_(False)
    trainer = made_trainer(tmp_path, model)
    trainer.add_callback(RSACallback(TEXTS))
    trainer.train()
    for values in logged(trainer):
        assert values[:3] == [1.0] * 3
        assert values[3] < 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_encoders(tmp_path: Path, family: str) -> None:
    model = classifier(family)
    trainer = made_trainer(tmp_path, model, num_train_epochs=1)
    trainer.add_callback(RSACallback(TEXTS))
    trainer.train()
    (values,) = logged(trainer)
    assert len(values) == model.config.num_hidden_layers + 1
    assert all(-1 < value < 1 for value in values)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_scores(tmp_path: Path, family: str) -> None:
    model = classifier(family)
    for name in ("base", "tuned"):
        model.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
        with torch.no_grad():
            body = find_body(model)
            last = list(dict.fromkeys(name for name, _ in body.named_parameters() if ".2." in name))
            for parameter in (body.get_parameter(name) for name in last):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    values = [row["value"] for row in score(tmp_path / "base", tmp_path / "tuned", TEXTS).rows]
    assert len(values) == model.config.num_hidden_layers + 1
    assert values[:3] == [1.0] * 3
    assert all(value < 1 for value in values[3:])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_an_adapter_in_training(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason='adapters take peft: pip install "bertft[lora]"')
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], layers_to_transform=[1])
    trainer = made_trainer(tmp_path, peft.get_peft_model(classifier(), config))
    trainer.add_callback(RSACallback(TEXTS))
    trainer.train()
    for values in logged(trainer):
        assert values[:2] == [1.0] * 2
        assert max(values[2:]) < 1


# ----------------------------------------------------------------------------------------------------------- resuming


@pytest.mark.equality
def test_a_resumed_run_is_compared_with_its_first_start(
    run: tuple[Trainer, Watch, RSACallback, PreTrainedModel], tmp_path: Path
) -> None:
    unbroken, _, _, start = run
    first = made_trainer(tmp_path, copy.deepcopy(start), Watch(stop_at=1), save_strategy="epoch")
    first.add_callback(RSACallback(TEXTS))
    first.train()
    assert (tmp_path / START).is_file()
    second = made_trainer(tmp_path, classifier(), save_strategy="epoch")
    second.add_callback(RSACallback(TEXTS))
    second.train(resume_from_checkpoint=True)
    # Weights and hidden states have the same bits. NumPy's products in float64, from which scores follow, may not.
    np.testing.assert_allclose(logged(second), logged(unbroken), rtol=0, atol=1e-9)
    ours, theirs = second.model.state_dict(), unbroken.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("lost", "options", "message"),
    [
        (True, {}, "the initial hidden states cannot be read .* resume with the options"),
        (False, {"seed": 1, "tokens": 20}, "of other tokens or layers than asked for now"),
        (False, {"layers": "1"}, "of other tokens or layers than asked for now"),
    ],
)
def test_a_resumed_run_without_its_start_is_refused(
    tmp_path: Path, lost: bool, options: dict[str, Any], message: str
) -> None:
    first = made_trainer(tmp_path, None, Watch(stop_at=1), save_strategy="epoch")
    first.add_callback(RSACallback(TEXTS))
    first.train()
    if lost:
        (tmp_path / START).write_bytes((tmp_path / START).read_bytes()[:-10])
    second = made_trainer(tmp_path, save_strategy="epoch")
    second.add_callback(RSACallback(TEXTS, **options))
    with pytest.raises(OptionError, match=message):
        second.train(resume_from_checkpoint=True)


def test_nothing_is_written_where_nothing_is_saved(tmp_path: Path) -> None:
    trainer = made_trainer(tmp_path, num_train_epochs=1)
    trainer.add_callback(RSACallback(TEXTS))
    trainer.train()
    assert not (tmp_path / START).exists()


# ---------------------------------------------------------------------------------------------------------- bad input


def test_only_the_first_process_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = made_trainer(tmp_path)
    callback = added(trainer, RSACallback(TEXTS))
    trainer.state.is_world_process_zero = False
    trainer.model.register_forward_pre_hook(lambda *_: pytest.fail("a model was run"))
    for event in ("on_train_begin", "on_evaluate"):
        called_by(trainer, event, callback, processing_class=tokenizer())
    assert callback.kept_bytes == 0


def test_a_callback_that_no_trainer_calls_says_how(tmp_path: Path) -> None:
    trainer = made_trainer(tmp_path)
    with pytest.raises(OptionError, match=r"write trainer\.add_callback\(RSACallback\(\.\.\.\)\)"):
        RSACallback(TEXTS).on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)


def test_weights_in_parts_are_refused(tmp_path: Path) -> None:
    trainer = made_trainer(tmp_path)
    trainer.add_callback(RSACallback(TEXTS))
    trainer.is_fsdp_enabled = True
    callback = trainer.callback_handler.callbacks[-1]
    with pytest.raises(OptionError, match="does not support FSDP or DeepSpeed"):
        called_by(trainer, "on_train_begin", callback)


def test_a_trainer_without_a_tokenizer(tmp_path: Path) -> None:
    trainer = made_trainer(tmp_path, num_train_epochs=1)
    trainer.processing_class = trainer.callback_handler.processing_class = None
    trainer.add_callback(RSACallback(TEXTS))
    with pytest.raises(OptionError, match="no tokenizer; give it as processing_class, or to RSACallback"):
        trainer.train()
    trainer.pop_callback(RSACallback)
    trainer.add_callback(RSACallback(TEXTS, tokenizer=tokenizer()))
    trainer.train()
    assert len(logged(trainer)) == 1


def test_several_texts_are_refused() -> None:
    with pytest.raises(OptionError, match="2 texts were given; a callback reads one"):
        RSACallback([corpus_from_texts(TEXTS), corpus_from_texts(TEXTS)])


def test_training_that_diverges_goes_on(tmp_path: Path) -> None:
    trainer = made_trainer(tmp_path, num_train_epochs=1)
    callback = added(trainer, RSACallback(TEXTS))
    trainer.train()
    with torch.no_grad():
        trainer.model.bert.encoder.layer[1].output.dense.bias[0] = math.inf
    trainer.state.global_step += 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback.on_evaluate(trainer.args, trainer.state, trainer.control, model=trainer.model)
    said = [str(warning.message) for warning in caught if warning.category is UndefinedWarning]
    assert [text[:14] for text in said] == ["hidden layer 2", "hidden layer 3"]
    assert "the vector of a token is not finite" in said[0]
    values = logged(trainer)[-1]
    assert all(map(math.isfinite, values[:2]))
    assert all(map(math.isnan, values[2:]))


def test_a_model_of_several_transformers() -> None:
    pair = torch.nn.ModuleList([classifier(), classifier("roberta")])
    assert type(find_body(pair[1])).__name__ == "RobertaModel"
    with pytest.raises(CheckpointError, match=r"expected one transformer inside, found 2 \(BertModel, RobertaModel\)"):
        find_body(pair)
    with pytest.raises(CheckpointError, match="Linear: expected one transformer inside, found 0"):
        find_body(torch.nn.Linear(2, 2))
