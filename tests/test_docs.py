"""Everything that the documentation tells people to type works: its Python blocks run, page by
page, and its commands compose with the options they name."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tracker_viz import jobs

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "pages"
FENCE = re.compile(
    r"(?P<left_out><!-- not run: [^\n]+ -->\n)?```(?P<language>\w+)[^\n]*\n(?P<code>.*?)```",
    re.DOTALL,
)
PLACEHOLDERS = {
    "<run_id>": "0123456789abcdef0123456789abcdef",
    "<directory>": "spool/my-job",
}


def blocks(page, language):
    """Yield (first line, code) of the blocks of a page that are to be run."""
    text = page.read_text()
    for fence in FENCE.finditer(text):
        if fence["language"] == language and not fence["left_out"]:
            yield text[: fence.start("code")].count("\n"), fence["code"]


WITH_PYTHON = sorted(page for page in PAGES.glob("*.md") if any(blocks(page, "python")))


def commands():
    for page in sorted(PAGES.glob("*.md")):
        for _, code in blocks(page, "bash"):
            for line in filter(str.strip, code.splitlines()):
                yield pytest.param(line, id=f"{page.stem}: {line[:60]}")


@pytest.fixture
def reader(tmp_path, monkeypatch, mlflow_store):
    """The names that a reader of the pages has already: a model, its data, a tracker, two runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    import mlflow
    from own_loop import GPT

    import tracker_viz as tv

    mlflow.set_tracking_uri(mlflow_store)
    torch.manual_seed(0)
    model = GPT(n_heads=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = list(torch.randint(128, (3, 2, 65)))

    def train_step(batch):
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    names = {
        "torch": torch,
        "tv": tv,
        "model": model,
        "other_model": GPT(n_heads=2),
        "batches": batches,
        "train_step": train_step,
        "vocab_size": 128,
        "context_length": 64,
        "text_ids": torch.randint(128, (400,)),
        "tokenizer": chr,
        "tracking_uri": mlflow_store,
    }
    yield names
    mlflow.set_tracking_uri(None)


def recorded(names, name):
    """Return the id of a run that holds a few captures."""
    with names["tv"].watch(names["model"], run="mlflow", name=name) as recorder:
        for step, batch in enumerate(names["batches"]):
            recorder.step(step, loss=names["train_step"](batch))
    (ref,) = recorder.refs
    return ref.path


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, reader):
    source = page.read_text()
    if "run_id" in source:
        reader["run_id"] = recorded(reader, "first")
    if "other_run_id" in source:
        reader["other_run_id"] = recorded(reader, "second")
    if "checkpoints/" in source:
        Path("checkpoints").mkdir()
        for step in (10, 20):
            torch.save(reader["model"].state_dict(), f"checkpoints/step-{step}.pt")
    if "hf_model" in source:
        reader |= of_frameworks()
    for line, code in blocks(page, "python"):
        block = compile("\n" * line + code, str(page), "exec")
        exec(block, reader)


def of_frameworks():
    """Return models and data as Hugging Face's Trainer and Lightning take them."""
    import lightning
    from huggingface import rows
    from transformers import LlamaConfig, LlamaForCausalLM

    def llama():
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=256,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=64,
            )
        )

    class Training(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = llama()

        def training_step(self, batch, _):
            return self.model(batch, labels=batch).loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

    data = rows()[:40]
    loader = torch.utils.data.DataLoader([row["input_ids"] for row in data], batch_size=4)
    return {
        "hf_model": llama(),
        "rows": data,
        "lightning_model": Training(),
        "loader": loader,
    }


@pytest.mark.parametrize("line", [*commands()])
def test_a_command_of_the_docs_exists_and_takes_these_options(line, tmp_path, monkeypatch, capsys):
    for placeholder, value in PLACEHOLDERS.items():
        line = line.replace(placeholder, value)
    assert "<" not in line, "a placeholder that the test does not know"
    program, *words = shlex.split(line, comments=True)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE)
        return

    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(own_layout())
    if "-m" in words:
        # Hydra shows the configuration of one job, not of a sweep: take each option's first value.
        words = [word.partition(",")[0] for word in words if word != "-m"]
    if program == "python":
        assert words[0] == "train.py"
        monkeypatch.setattr(sys, "argv", ["train.py", *words[1:], "--cfg", "job"])
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    else:
        assert program == "tracker-viz"
        monkeypatch.setattr(sys, "argv", ["tracker-viz", *words, "--cfg", "job"])
        jobs.main()
    assert capsys.readouterr().out, "the configuration that would run"


def own_layout():
    ((_, code),) = blocks(PAGES / "layouts.md", "yaml")
    return code


# -- figures

QUOTED = [
    ("README.md", r"costs little more than its encoding\*\*: ([\d.]+) times", "render_warm"),
    ("docs/pages/promises.md", r"takes about ([\d.]+) times the processor time", "render_warm"),
    ("docs/pages/promises.md", r"and ([\d.]+) times before anything was kept", "render_cold"),
    ("docs/pages/cost.md", r"takes about ([\d.]+) times the processor time", "render_warm"),
]


@pytest.mark.parametrize(("page", "sentence", "headline"), QUOTED)
def test_figures_in_the_text_are_those_that_were_measured(page, sentence, headline):
    [quoted] = re.findall(sentence, (ROOT / page).read_text())
    headlines = json.loads((ROOT / "benchmarks" / "headlines.json").read_text())
    assert quoted == headlines["figures"][headline]["shown"].removesuffix(" x"), (
        "python benchmarks/headlines.py says what was measured"
    )


# First words of a row of the table in operations.md -> the rows of benchmarks/faults.json that it
# sums up.
FAULT_ROWS = {
    "training runs": ("kill", lambda row: "threads" not in row),
    "`render`, `compare`": ("draw", lambda row: "twice" not in row),
    "two renders": ("draw", lambda row: "twice" in row),
    "disks": ("disks", lambda row: True),
    "networks": ("networks", lambda row: True),
}


@pytest.mark.parametrize("words", FAULT_ROWS)
def test_the_table_of_faults_sums_up_the_trials(words):
    kind, is_summed = FAULT_ROWS[words]
    stored = json.loads((ROOT / "benchmarks" / "faults.json").read_text())[kind]
    rows = [row for name, row in stored.items() if is_summed(name)]

    def total(*names):
        return sum(row["counts"].get(name, 0) for row in rows for name in names)

    half = total("half files", "half videos")
    sums = [total(name) for name in ("trials", "captures", "lost", "doubled", "changed")]
    stall_ms = max(row["most"].get("longest stall, ms", 0) for row in rows)

    page = (PAGES / "operations.md").read_text()
    [line] = re.findall(rf"^\| {re.escape(words)}.*", page, re.MULTILINE)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert [int(cell.replace(",", "")) for cell in cells[1:7]] == [*sums, half]
    assert cells[7] == (f"{stall_ms:.0f} ms" if stall_ms else "")
