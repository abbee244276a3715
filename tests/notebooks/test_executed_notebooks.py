"""A notebook that Jupyter's own kernel executes: a tiny decoder is watched, filmed and compared."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

from tracker_viz.notebook import MOST_BYTES

EXAMPLES = Path(__file__).parents[2] / "examples"
CELLS = {
    "setup": """
import torch
from torch.nn import functional as F

import tracker_viz as tv
from tracker_viz.demo.model import Decoder, ModelConfig

SMALL = {"size": "640x360", "hold_s": 0.1, "seconds_per_capture": 0.1, "key_frames": 0}


def new_model():
    torch.manual_seed(0)
    shape = {"n_blocks": 2, "n_heads": 2, "n_kv_heads": 1, "d_model": 16, "d_ffn": 32}
    return Decoder(ModelConfig(**shape, context_length=32, vocab_size=40))


def train(model, recorder, steps):
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(1, steps + 1):
        batch = torch.randint(40, (4, 17))
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(step, loss=loss)


model = new_model()
""",
    "watch": 'first = tv.watch(model, run="local", every=2)\nfirst',
    "watch again": 'recorder = tv.watch(model, run="local", every=2)\nfirst.is_open',
    "train": "train(model, recorder, 6)\nrecorder.close()",
    "watch closed": 'tv.watch(model, run="local", spool="third", enabled=True).close()',
    "film": "tv.render(recorder, video=SMALL)",
    "page": "tv.render(recorder, format='html')",
    "captures": "captures = tv.load_captures(recorder.ref)\ncaptures",
    "capture": "next(captures)",
    "inspect": "tv.inspect(model)",
    "compare": """
other_model = new_model()
other = tv.watch(other_model, run="local", every=2)
train(other_model, other, 4)
other.close()
tv.compare([recorder.ref, other.ref], video=SMALL, output="compared", upload=False)
""",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The outputs of the executed cells, by the cells' names."""
    directory = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS.values()]
    )
    executed(notebook, directory)
    return dict(zip(CELLS, (cell.outputs for cell in notebook.cells), strict=True))


def executed(notebook, directory):
    """Run the cells in ``directory``; their outputs are put into the notebook."""
    environment = {"TRACKER_VIZ_CACHE": str(directory / "cache"), "IPYTHONDIR": str(directory)}
    nbclient.NotebookClient(
        notebook, timeout=500, resources={"metadata": {"path": str(directory)}}
    ).execute(env=os.environ | environment)


def shown(cell):
    """The cell's outputs that are shown, without what went to standard error."""
    return [output.data for output in cell if output.output_type != "stream"]


def result(cell):
    (data,) = [output.data for output in cell if output.output_type == "execute_result"]
    return data


def written(cell):
    return "".join(output.text for output in cell if output.output_type == "stream")


def test_a_film_plays_in_the_notebook(outputs):
    markup = result(outputs["film"])["text/html"]
    assert markup.count("<video controls") == 1
    assert 'src="data:video/webm;base64,' in markup


def test_a_page_is_in_a_frame_that_keeps_its_style_to_itself(outputs):
    markup = result(outputs["page"])["text/html"]
    outside, frame, after = re.split(r"(<iframe.*</iframe>)", markup, flags=re.DOTALL)
    assert "<style" in frame
    assert "<style" not in outside + after


def test_a_comparison_shows_its_film_its_findings_and_its_caveats(outputs):
    markup = result(outputs["compare"])["text/html"]
    assert "<video controls" in markup
    assert "Distances of the runs" in markup
    assert "The runs end at different steps" in markup


def test_captures_show_which_run_they_are_of_and_a_capture_its_heads_and_arrays(outputs):
    assert "none read yet" in result(outputs["captures"])["text/html"]
    markup = result(outputs["capture"])["text/html"]
    assert "<img" in markup
    assert "blocks.0-1.attn.pattern" in markup
    assert "probe 1, head 2, query 32, key 32" in markup


def test_an_inspection_shows_all_that_print_says(outputs):
    assert "blocks.0 to 1" in result(outputs["inspect"])["text/html"]


def test_no_output_takes_a_megabyte_and_every_one_has_one_line_of_text(outputs):
    for name, cell in outputs.items():
        for data in shown(cell):
            assert sum(len(contents.encode()) for contents in data.values()) < MOST_BYTES
            assert len(data["text/plain"]) < 300, name
            assert "\n" not in data["text/plain"], name


def test_the_cell_that_trains_has_one_output_that_is_replaced(outputs):
    live, closed = shown(outputs["train"])
    assert closed["text/plain"] == "Report(all captures were delivered)"
    assert re.fullmatch(
        r"Decoder · step 6 · 4 captures · loss \d\.\d{3} · all captures were delivered",
        live["text/plain"],
    )
    assert live["text/html"].count("<img") == 1


def test_other_cells_do_not_show_the_training_again(outputs):
    for data in shown(outputs["film"]) + shown(outputs["page"]):
        assert "loss" not in data["text/plain"]


def test_progress_is_one_line_that_is_gone_in_the_end(outputs):
    bars = [data["text/plain"] for data in shown(outputs["film"])[:-1]]
    assert bars == [""]
    assert "drawing" not in written(outputs["film"])


def test_a_watch_cell_that_runs_twice_says_so_and_closes_the_first(outputs):
    assert "this model is watched already" not in written(outputs["watch"])
    assert "this model is watched already" in written(outputs["watch again"])
    assert result(outputs["watch again"])["text/plain"] == "False"


def test_a_closed_recording_is_no_reason_to_warn(outputs):
    assert "this model is watched already" not in written(outputs["watch closed"])


def test_the_example_runs_and_is_small(tmp_path):
    path = EXAMPLES / "notebook.ipynb"
    assert path.stat().st_size < 350_000
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("STEPS = 400", "STEPS = 8")
    executed(notebook, tmp_path)
    films = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("<video" in film.get("data", {}).get("text/html", "") for film in films)


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.ipynb")), ids=lambda path: path.name)
def test_no_path_of_the_machine_that_ran_it_is_in_a_shipped_notebook(path):
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", path.read_text())
    found = re.findall(r"/(?:home|root|work|tmp|Users|opt|mnt|private|var)/[^\s\"'<\\]*", text)
    assert not found, "shorten them in the outputs: spool/..., ~/.cache/..."
