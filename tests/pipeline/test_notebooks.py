"""The notebooks' form: what a reader and the pipeline may rely on. That they run and repeat is nbval's to check."""

import ast

import nbformat
import pytest
import yaml

from study import pipeline
from study.paths import ROOT

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.fixture(params=pipeline.NOTEBOOKS)
def name(request):
    return request.param


@pytest.fixture
def notebook(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_cell(notebook):
    (cell,) = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    return cell


def test_every_notebook_is_a_stage_after_those_it_reads_from():
    assert sorted(pipeline.NOTEBOOKS) == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    written = {}
    for stage in pipeline.NOTEBOOKS:
        results = [dep for dep in STAGES[stage]["deps"] if dep.startswith("results/")]
        assert all(dep in written for dep in results), stage
        outs = STAGES[stage]["outs"] + STAGES[stage].get("metrics", [])
        written |= {out if isinstance(out, str) else next(iter(out)): stage for out in outs}


def test_every_notebook_has_a_clean_copy():
    assert STAGES["clean"]["deps"] == [f"notebooks/{name}.ipynb" for name in pipeline.NOTEBOOKS]
    assert [path for out in STAGES["clean"]["outs"] for path in out] == [
        f"build/clean/{name}.ipynb" for name in pipeline.NOTEBOOKS
    ]


def test_parameters_are_the_keys_and_types_of_the_profile(name):
    defaults = pipeline.notebook_defaults(name)
    assert list(defaults) and defaults.keys() == PARAMS[name].keys()
    for key, default in defaults.items():
        assert type(default) is type(PARAMS[name][key]), key
        if isinstance(default, list):
            assert {type(item) for item in default} == {type(item) for item in PARAMS[name][key]}, key


def test_parameters_are_literals(notebook):
    for statement in ast.parse(parameters_cell(notebook).source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)


def test_smoke_results_stay_out_of_the_results_folder(name):
    assert pipeline.notebook_defaults(name)["results"] == "build/smoke"


def test_kernel_is_python3(notebook):
    assert notebook.metadata.kernelspec.name == "python3"


def test_cells_were_run_in_order(notebook):
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))


def test_no_stored_output_is_an_error_or_a_warning(notebook):
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_code_cells_stay_within_15_lines(notebook):
    for cell in code(notebook):
        if "parameters" not in cell.metadata.get("tags", []):
            assert len(cell.source.splitlines()) <= 15, cell.source


def test_stage_depends_on_exactly_the_modules_it_imports(name, notebook):
    source = "\n".join(cell.source for cell in code(notebook))
    listed = {dep for dep in STAGES[name]["deps"] if dep.startswith("src/")}
    assert listed == {f"src/supcl/{module}.py" for module in imported_modules(source)}


def imported_modules(source):
    """Modules of supcl that source imports, directly or through one another."""
    found, queue = set(), [source]
    while queue:
        for node in ast.walk(ast.parse(queue.pop())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "supcl":
                names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
                for module in set(names) - found:
                    found.add(module)
                    queue.append((ROOT / "src" / "supcl" / f"{module}.py").read_text())
    return found
