"""The notebooks' form: what a reader and the pipeline may rely on. That they run and repeat is nbval's to check."""

import ast

import nbformat
import pytest
import yaml
from dvc.repo import Repo

from study import notebooks, pipeline
from study.notebooks import NOTEBOOKS
from study.paths import ROOT

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
# What may change without changing a result: where files lie, how commands are called.
NO_RESULT = {
    "src/study/__init__.py",
    "src/study/benchmarks/__init__.py",
    "src/study/paths.py",
    "src/study/writing.py",
    "src/study/progress.py",
    "src/study/registration.py",
    "src/study/notebooks.py",
    "src/study/pipeline.py",
    "src/study/parameters/__init__.py",
    "src/study/parameters/checking.py",
    "src/study/parameters/definition.py",
    "src/study/parameters/kinds.py",
    "src/study/parameters/rules.py",
}


@pytest.fixture(params=NOTEBOOKS)
def key(request):
    return request.param


@pytest.fixture
def notebook(key):
    return nbformat.read(NOTEBOOKS[key], as_version=4)


@pytest.fixture(scope="module")
def dependencies():
    """{stage's name: paths it depends on}, as DVC reads them from dvc.yaml."""
    return {
        stage.addressing: {path for dep in stage.deps if (path := dep.fs_path.removeprefix(f"{ROOT}/")) != "params.yaml"}
        for stage in Repo(ROOT).index.stages
    }


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_cell(notebook):
    (cell,) = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    return cell


def test_notebooks_are_numbered_in_the_order_in_which_they_read_each_other(dependencies):
    numbers = dict.fromkeys(path.name[:2] for path in NOTEBOOKS.values())  # a later method shares one, and renames no other
    assert list(numbers) == [f"{number:02d}" for number in range(1, len(numbers) + 1)]
    for number, key in enumerate(NOTEBOOKS):
        earlier = tuple("results/" + name for name in (*list(NOTEBOOKS)[:number], "arrays", "colour"))
        read = [dep for dep in dependencies[pipeline.stages()[key]] if dep.startswith("results/")]
        assert not [dep for dep in read if not dep.startswith(earlier)], key


def test_parameters_are_the_keys_and_types_of_the_profile(key):
    defaults = notebooks.defaults(key)
    assert list(defaults) and defaults.keys() == PARAMS[key].keys()
    for name, default in defaults.items():
        assert default is None or type(default) is type(PARAMS[key][name]), name  # None: none, of an optional one
        if isinstance(default, list):
            assert {type(item) for item in default} == {type(item) for item in PARAMS[key][name]}, name


def test_parameters_are_literals(notebook):
    for statement in ast.parse(parameters_cell(notebook).source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)


def test_smoke_results_stay_out_of_the_results_folder(key):
    assert notebooks.defaults(key)["results"] == "build/smoke"


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


def test_a_stage_depends_on_the_code_its_notebooks_import_and_on_no_other(dependencies):
    for stage, listed in dependencies.items():
        own = [key for key, name in pipeline.stages().items() if key in NOTEBOOKS and name == stage]
        listed = {dep for dep in listed if dep.startswith("src/")}
        imported = set().union(*(imported_files(source_of(key)) for key in own)) - NO_RESULT
        assert not [file for file in imported if not any(file == dep or file.startswith(dep + "/") for dep in listed)], stage
        assert not [dep for dep in listed if not any(file == dep or file.startswith(dep + "/") for file in imported)], stage


def source_of(key):
    return "\n".join(cell.source for cell in code(nbformat.read(NOTEBOOKS[key], as_version=4)))


def imported_files(source):
    """Files of src/ that source imports, directly or through one another."""
    found, queue = set(), [source]
    while queue:
        for node in ast.walk(ast.parse(queue.pop())):
            for name in imported_names(node):
                path = ROOT / "src" / name.replace(".", "/")
                file = next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)
                if file and (relative := file.relative_to(ROOT).as_posix()) not in found:
                    found.add(relative)
                    queue.append(file.read_text())
    return found


def imported_names(node):
    """Dotted names that a statement may import: of `from study import data`, both study and study.data."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []
