"""Does the example notebook submit a job, in a server that the Hub has started?"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import nbformat

from tests.journeys.person import Person
from tests.journeys.site import Site

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "submit_a_job.ipynb"
#: Runs the notebook as a person's *Run all* does, in the directory of their server.
RUN_ALL = """
import json, nbformat, os, nbclient
os.environ |= {environ!r}
notebook = nbformat.read({path!r}, 4)
nbclient.NotebookClient(notebook, timeout=25).execute()
json.dumps(notebook)
"""


def test_the_example_notebook_submits_a_job_and_reads_what_it_wrote(site: Site, alice: Person):
    """With pyfirecrest, which has the token from the Hub by HubTokenAuth."""
    alice.start()
    environ = {"FIRECREST_URL": site.firecrest.url, "FIRECREST_SYSTEM": "demo"}
    before = len(site.firecrest.requests)
    shown = alice.run(alice.start_kernel(), RUN_ALL.format(environ=environ, path=str(EXAMPLE)))
    cells = {cell["id"]: cell for cell in json.loads(ast.literal_eval(shown or ""))["cells"]}
    job = site.job("alice")
    assert (job.name, job.state, job.user) == ("hello", "COMPLETED", "alice")
    (output,) = cells["output"]["outputs"]
    assert output["text"].startswith(f"Hello from job {job.id} on nid001")
    asked = list(site.firecrest.requests)[before:]
    assert {r.username for r in asked if r.operation == "submit"} == {"alice"}
    (site.executor.home_of("alice") / "hello.out").unlink()
    alice.stop()


def test_the_example_is_clean() -> None:
    """As its format wants it, without outputs, and with code of which each line compiles."""
    notebook = nbformat.read(EXAMPLE, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
            compile(cell.source, cell.id, "exec")
