"""What the documentation shows, runs: every block of the README in order, every example of a docstring."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import bertft
from bertft import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
MODULES = sorted(module.name for module in pkgutil.walk_packages(bertft.__path__, "bertft."))
OPTIONAL = ("accelerate", "triton")
"""Packages that some modules import at the top, and that not every installation has."""

SENTENCES = """The ferry was late again, and nobody minded.
She had counted the steps twice before the lights went out.
Bread rises faster in a warm kitchen.
Two herons stood in the shallow water until noon.
Why would anyone paint a bridge in winter?
"""
LABELS = ("entailment", "neutral", "contradiction", "neutral", "entailment")


@pytest.fixture(scope="module")
def workplace(model_dir, tmp_path_factory):
    """A folder as the README assumes it: base, tuned, other, texts, pairs to train on, a treebank."""
    folder = tmp_path_factory.mktemp("readme")
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "tuned", "other"):
        model = AutoModel.from_pretrained(model_dir)
        if name != "base":
            for parameter in model.encoder.layer[3:].parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data += 0.1 * parameter.data.std(correction=0) * noise
        model.save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(model_dir).save_pretrained(folder / name)
    (folder / "sentences.txt").write_text(SENTENCES)
    (folder / "more.txt").write_text("\n".join(["".join(reversed(SENTENCES.splitlines(keepends=True)))] * 4))
    for name in ("train", "dev"):
        (folder / f"{name}.jsonl").write_text("".join(map(pair, SENTENCES.splitlines(), LABELS)))
    (folder / "treebank").mkdir()
    for split in ("train", "dev", "test"):
        (folder / "treebank" / f"en_readme-ud-{split}.conllu").write_text("".join(map(conllu, SENTENCES.splitlines())))
    return folder


def pair(sentence, label):
    """A record of MNLI."""
    return json.dumps({"sentence1": sentence, "sentence2": "It rains.", "gold_label": label}) + "\n"


def conllu(sentence):
    """The sentence with each word hanging from the second, which is the root."""
    rows = []
    for i, word in enumerate(sentence.split(), start=1):
        tags, head, relation = ("VERB\tVB", 0, "root") if i == 2 else ("X\tXX", 2, "dep")
        rows.append(f"{i}\t{word}\t_\t{tags}\t_\t{head}\t{relation}\t_\t_\n")
    return f"# text = {sentence}\n{''.join(rows)}\n"


def run(command, folder):
    """What a shell command prints in a folder."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shown = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder, env=os.environ | {"PATH": tools, "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, f"{command}\n{shown.stdout}\n{shown.stderr}"
    return shown.stdout


@pytest.mark.parametrize(("language", "block"), BLOCKS, ids=[f"{n}-{kind}" for n, (kind, _) in enumerate(BLOCKS)])
def test_readme_block(language, block, workplace, monkeypatch, capsys):
    if language == "python":
        (workplace / "block.py").write_text(block)
        run(f"{shlex.quote(sys.executable)} -W error block.py", workplace)
    elif language == "bash":
        for line in block.strip().splitlines():
            words = shlex.split(line)
            if words[0] == "make":  # this very suite is one of them: that the target exists must do
                run(f"make --dry-run {words[1]}", ROOT)
            elif words[:2] == ["pip", "install"]:
                assert words[2:] == ["."]
                run("python -m pip --version && test -f pyproject.toml && test -f CMakeLists.txt", ROOT)
            elif ">" in words or words[1] == "demo":
                run(line, workplace)  # as a user starts it, from the shell
            else:
                assert words[0] == "bertft"
                monkeypatch.chdir(workplace)
                monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
                assert cli.main(words[1:]) == 0, f"{line}\n{capsys.readouterr()}"  # without loading torch for each line
    else:
        assert language == "text"  # shows what is printed; holds no command


def test_readme_files_are_written(workplace):
    for name in ("scores.json", "scores.csv", "rsa.png", "report.html"):
        assert f"`{name}`" in README
        if not (workplace / "scores" / name).exists():
            run("bertft score base tuned --text sentences.txt --out scores", workplace)
        assert (workplace / "scores" / name).stat().st_size > 100


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module):
    if module.endswith("__main__"):
        return
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        cause: BaseException | None = error  # transformers raises another error from that of the package
        while cause is not None and getattr(cause, "name", None) not in OPTIONAL:
            cause = cause.__cause__
        if cause is None:
            raise
        pytest.skip(f"{cause.name} is absent")
    found = doctest.testmod(imported, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0


def test_every_public_function_shows_an_example():
    for name in bertft.__all__:
        documented = getattr(bertft, name).__doc__ or ""
        assert ">>>" in documented or name == "Scores", f"bertft.{name} has no example"
