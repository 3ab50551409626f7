"""The parameters given against the definition: each mistake a sentence that names the parameter, what was given, what is allowed,
and the nearest name where one was misspelt."""

import ast
import difflib
import inspect
import re
import zipfile

from pydantic import BaseModel, ValidationError

from study.parameters.definition import NOTEBOOKS, definition
from study.parameters.kinds import allowed_by
from study.parameters.rules import BETWEEN_NOTEBOOKS, RULES
from study.paths import project


def check(key, namespace):
    """The first act of the notebook called key: raises ValueError unless its parameters are as defined. namespace is globals().

    Names that papermill set (`-p`) or that stand in the cell of parameters must be parameters, and draws that are asked for must
    lie where the notebook will look for them.
    """
    known = definition(key).model_fields
    names = [*known, *(name for name in _names_set(namespace.get("In", ())) if name not in known)]
    given = {name: namespace[name] for name in names if name in namespace}
    found = mistakes(key, given)
    if not found and "trials" in given:
        found = list(_missing_draws(given))
    refuse("The parameters of this notebook", [(key, mistake) for mistake in found])


def check_stages(stages, where):
    """Raises ValueError unless {key: parameters} are as defined; where says where they stand."""
    refuse(where, mistakes_in_stages(stages))


def refuse(where, found):
    """Raises ValueError where there are pairs (what has the mistake, the mistake), with a line for each mistake."""
    if not found:
        return
    sharing = {}
    for who, mistake in found:
        sharing.setdefault(mistake, []).append(who)
    lines = [f"  {_in_short(who)}: {mistake}" for mistake, who in sharing.items()]
    raise ValueError(
        "\n".join([f"{where} must be corrected ({len(lines)} {'mistake' if len(lines) == 1 else 'mistakes'}):", *lines])
    )


def _in_short(names):
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def mistakes_in_stages(stages):
    """Pairs (key, mistake) in {key: parameters}."""
    if not isinstance(stages, dict):
        return [("the whole file", f"is {stages!r}; expected a mapping of parameters for each notebook.")]
    found, flawless = [], {}
    for key, values in stages.items():
        if key in NOTEBOOKS or _has_file(key):
            found += [(key, mistake) for mistake in mistakes(key, values)]
            if key not in dict(found):
                flawless[key] = values
        elif difflib.get_close_matches(str(key), NOTEBOOKS, 1, 0.75):  # others hold what several notebooks share
            found.append((str(key), f"is no notebook{hint(key, NOTEBOOKS)}"))
    return found + [pair for rule in BETWEEN_NOTEBOOKS for pair in rule(flawless)]


def _has_file(key):
    from study import notebooks  # here, not above: in a notebook only those need it that have no class

    return key in notebooks.NOTEBOOKS


def mistakes(key, values):
    """The mistakes in the parameters {name: value} of the notebook called key, each a sentence."""
    if not isinstance(values, dict):
        return [f"is {values!r}; expected a mapping of its parameters."]
    model, wrong = definition(key), {}
    try:
        model.model_validate(values)
    except ValidationError as error:
        wrong = dict.fromkeys(_path(model, problem["loc"]) for problem in error.errors())
    return [_sentence(model, path, values) for path in wrong] + list(_broken_rules(model, values, wrong))


def _path(model, location):
    """The names that lead to a parameter, of where pydantic found something: what comes after them is inside its value."""
    path = ()
    for part in location:
        if model is None:
            break
        path += (part,)
        model = _mapping_of(model, part)
    return path


def _mapping_of(model, name):
    """The model of the mapping that a parameter is; None where it is a value."""
    field = model.model_fields.get(name)
    return field.annotation if field and inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel) else None


def _sentence(model, path, values):
    *outer, name = path
    for part in outer:
        model, values = _mapping_of(model, part), values[part] if isinstance(values[part], dict) else {"name": values[part]}
    called = ".".join(map(str, path))
    if name not in model.model_fields:
        return _unknown(called, name, model, outer)
    field = model.model_fields[name]
    allowed = allowed_by(field)
    if name not in values:
        meaning = f" ({field.description})" if field.description else ""
        return f"{called} is missing; expected {allowed.phrase}{meaning}."
    return f"{called} is {_shown(values[name])}; expected {allowed.phrase}{_remark(values[name], allowed)}"


def _unknown(called, name, model, outer):
    of_what = "key of " + ".".join(outer) if outer else "parameter of this notebook"
    return f"{called} is no {of_what}{hint(name, model.model_fields)}"


def hint(name, known):
    """The end of a sentence on an unknown name: the nearest that is known, or all of them."""
    near = difflib.get_close_matches(str(name).lower(), known, 1)
    return f"; did you mean {near[0]}?" if near else f"; expected one of {', '.join(known)}."


def _shown(value):
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _remark(value, allowed):
    """The end of a sentence on a value: of text that looks like a number or a word, what was probably meant."""
    texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
    for text in texts:
        if "number" in allowed.phrase and re.fullmatch(r"-?\d+(\.\d*)?(e-?\d+)?", text.lower()):
            return f". {text!r} is text; write {float(text):.12g}, without quotes."
        if text not in allowed.words and (near := difflib.get_close_matches(text.lower(), allowed.words, 1)):
            return f"; did you mean {near[0]}?"
    return "."


def _broken_rules(model, values, wrong, outer=()):
    """What rules say of parameters that are right by themselves, and of mappings among them."""
    flawed = {path[0] for path in wrong}
    fine = {name: values[name] for name in model.model_fields if name in values and name not in flawed}
    for rule in RULES:
        needed = inspect.signature(rule).parameters
        if needed.keys() <= fine.keys():
            yield from (".".join((*outer, sentence)) for sentence in rule(**{name: fine[name] for name in needed}))
    for name in fine:
        if isinstance(fine[name], dict) and (inner := _mapping_of(model, name)):
            yield from _broken_rules(inner, fine[name], (), (*outer, name))


# In a notebook


def _missing_draws(given):
    """Of those that a notebook trains on, what the notebook data, where it has run, did not write to the same folder."""
    file = project() / given["results"] / "arrays" / "data" / "splits.npz"
    if not file.exists():
        return
    with zipfile.ZipFile(file) as archive:
        there = [path.removesuffix(".npy") for path in archive.namelist()]
    for n, draws in zip(given["shots"], given["seeds"], strict=True):
        missing = [seed for seed in range(draws) if f"draw_{n}_{seed}" not in there]
        if n != "full" and missing:
            yield (
                f"seeds has {draws} draws of {n} images per class; expected at most {missing[0]}, which {file} holds. First run "
                "01_data with more, and the same `results`."
            )


def _names_set(sources):
    """Names set by the last cell of parameters among the sources of those that were run, and by the last one of papermill's."""
    by_papermill = [source for source in sources if source.startswith("# Parameters")]
    own = [source for source in sources if "results" in _assigned(source)]
    return [name for cells in (own, by_papermill) for source in cells[-1:] for name in _assigned(source)]


def _assigned(source):
    """Names that a cell sets to values written out; none where it does anything else."""
    try:
        statements = ast.parse(source).body
        for statement in statements:
            ast.literal_eval(statement.value)
        return [statement.targets[0].id for statement in statements]
    except (SyntaxError, AttributeError, ValueError, TypeError):
        return []
