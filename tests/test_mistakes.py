"""Mistakes on the command line are told in one line, before torch and transformers are imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bertft.activations.words import POOLINGS
from bertft.checkpoints.edit import POOLERS
from bertft.cli import parser
from bertft.commands import COMMANDS
from bertft.commands.options import PRESETS
from bertft.experiments import ablate, mdl, pretrain
from bertft.tasks import TASKS, named_task

HEAVY = ("torch", "transformers", "numba", "scipy", "pandas", "matplotlib")

SCORE = "score base tuned --text text.txt"
TUNE = "tune mnli base --train train.jsonl --dev train.jsonl -o out"
ABLATE = "ablate mnli base --train train.jsonl --dev train.jsonl -o out"
MISTAKES = {
    "scor base tuned --text text.txt": "unknown command 'scor' (did you mean 'score'?); choose",
    "probe structurel base --treebank bank": "unknown command 'structurel' (did you mean 'structural'?); choose",
    "score base tuned --txt text.txt": "unknown option --txt (did you mean '--text'?); see `bertft score --help`",
    f"{SCORE} --measures cka,rsaa": "unknown measure 'rsaa' (did you mean 'rsa'?)",
    f"{SCORE} --layers 1..3": "'1..3' is not a layer; give all, a number, or a list such as 0,3-5,-1",
    f"{SCORE} --dtype float23": "unknown dtype 'float23' (did you mean 'float32'?)",
    f"{SCORE} --device gpu": "unknown device 'gpu' (did you mean 'cuda'?)",
    f"{SCORE} --tokens 0": "argument --tokens: '0' is neither a whole number above 0 nor `all`",
    f"{SCORE} --seed one": "argument --seed: invalid int value: 'one'",
    f"{SCORE} --pair base tuned": "both were given: give BASE TUNED or pairs of them with --pair",
    f"{SCORE} --format pn": "unknown format 'pn' (did you mean 'png'?); choose one of png, svg, pdf",
    f"{SCORE} --tokens 2": "tokens is 2; give a whole number that is at least 3, or 'all'",
    f"{SCORE} --seed -1": "seed is -1; give a whole number that is at least 0",
    f"{SCORE} --compare-bases": "only one base was given",
    "score base --text text.txt": "TUNED is missing",
    "score no/such/base tuned --text text.txt": "no/such/base: no such folder; give the folder of a model",
    "score base text.txt --text text.txt": "text.txt: a file, not a model folder",
    "score base tuned --text no.txt": "no.txt: no such file; give a UTF-8 file",
    "score base tuned --text base": "base: a folder, not a file",
    "probe structural base --treebank no": "no: no such file or folder; give a CoNLL-U file",
    "probe structural base --treebank base": "base: no file named *-ud-train.conllu",
    "probe structural base --treebank bank --pooling men": "unknown pooling 'men' (did you mean 'mean'?)",
    "probe edge base --data no --task pos": "no: no such folder; give the folder above those of the tasks",
    "tune mnly base --train train.jsonl --dev train.jsonl -o out": "unknown task 'mnly' (did you mean 'mnli'?)",
    "tune mnli --train train.jsonl --dev train.jsonl -o out": "MODEL is missing: write `bertft tune mnli MODEL",
    f"{TUNE} --model base": "MODEL was given twice",
    f"{TUNE} --preset papr": "unknown preset 'papr' (did you mean 'paper'?)",
    f"{TUNE} --lora 4 --truncate 2": "an adapter is saved without the blocks that it belongs to",
    f"{TUNE} --learning-rate 3": "learning_rate is 3.0; give a number between 0 and 1, such as 3e-5",
    f"{TUNE} --learning-rate nan": "learning_rate is nan; give a number between 0 and 1",
    f"{TUNE} --truncate 0": "truncate is 0; give a whole number that is at least 1",
    f"{TUNE} --seeds 1 -2": "seed is -2; give a whole number that is at least 0",
    ABLATE: "there is nothing to sweep; give layers to freeze, numbers of blocks to truncate to, or both",
    f"{ABLATE} --freeze 1..3": "cannot freeze '1..3'; write all, a number, or a list such as 1,3-5",
    "pretrain --text text.txt -o out --held-out 1.5": "held_out is 1.5; give a share above 0 and below 1",
    "probe mdl base --task pos --treebank bank --learning-rate 0": "learning_rate is 0.0; give a number between",
    "probe edge base --task pos --treebank bank --random-seeds -1": "random_seeds is -1; give a whole number",
    "tune mnli base --train no.jsonl --dev train.jsonl -o out": "no.jsonl: no such file",
    "pretrain --text text.txt -o out --size bse": "unknown size 'bse' (did you mean 'base'?)",
    "tune mnli base --train train.jsonl --dev train.jsonl": "arguments are required: -o/--output-dir",
}


def test_mistakes_are_told_in_one_line_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "x-ud-train.conllu").write_text("1\tIt\t_\t_\t_\t_\t0\troot\t_\t_\n")
    (tmp_path / "text.txt").write_text("It rains.\n")
    (tmp_path / "train.jsonl").write_text("{}\n")
    lines = list(MISTAKES)
    code = (
        "import contextlib, io, json, sys\nfrom bertft import cli\n"
        "for line in json.load(sys.stdin):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as said:\n"
        "        status = cli.main(line.split())\n"
        f"    print(json.dumps([status, said.getvalue(), [name for name in {HEAVY} if name in sys.modules]]))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(lines), capture_output=True, text=True, cwd=tmp_path, check=True
    )
    for line, answer in zip(lines, found.stdout.splitlines(), strict=True):
        status, said, loaded = json.loads(answer)
        assert MISTAKES[line] in said, f"{line}: {said}"
        assert (status, said.count("\n"), loaded) == (2, 1, []), f"{line}: {said}"
    assert not (tmp_path / "out").exists()


def test_the_choices_of_options_are_those_of_the_drivers() -> None:
    command = {name: parser().parse_args([*name.split(), *needed]) for name, needed in NEEDED.items()}
    assert set(command) == {name for name in COMMANDS if name != "demo"}
    for name, option, known in (
        ("tune", "--pooler", POOLERS),
        ("ablate", "--keep", ablate.KEEP),
        ("pretrain", "--size", pretrain.SIZES),
        ("probe structural", "--pooling", POOLINGS),
        ("probe mdl", "--code", mdl.CODES),
        ("probe mdl", "--probe", mdl.PROBES),
        ("probe mdl", "--held-out", mdl.HELD_OUT),
    ):
        for value in known:
            assert parser().parse_args([*name.split(), *NEEDED[name], option, value])
    for task in TASKS:
        assert set(named_task(task).recipes) == set(PRESETS)


NEEDED = {
    "score": ["a", "b", "--text", "c"],
    "tune": ["mnli", "a", "--train", "b", "--dev", "c", "-o", "d"],
    "ablate": ["mnli", "a", "--train", "b", "--dev", "c", "-o", "d"],
    "pretrain": ["--text", "a", "-o", "b"],
    "probe structural": ["a", "--treebank", "b"],
    "probe edge": ["a"],
    "probe mdl": ["a"],
    "diff": ["a", "b"],
    "data edge": ["--task", "pos", "--treebank", "a", "-o", "b"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_an_example_that_is_parsed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([*name.split(), "--help"])
    said = capsys.readouterr().out
    assert all(alias not in said.split() for alias in ("--out", "--model", "--floor"))
    lines = said.replace("\\\n", " ").splitlines()
    examples = [line.split() for line in lines if line.startswith("  bertft ")]
    assert examples, said
    for example in examples:
        assert parser().parse_args(example[1:]).command == name


@pytest.mark.parametrize("option", ["-o", "--output-dir", "--out"])
def test_names_of_earlier_versions_are_accepted(option: str) -> None:
    options = parser().parse_args(["score", "a", "b", "--text", "c", option, "d"])
    assert options.out == Path("d")
    old = ["tune", "mnli", "--model", "a", "--train", "b", "--dev", "c", option, "d"]
    assert parser().parse_args(old).model_option == "a"
