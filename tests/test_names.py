"""Names of the code in docstrings, comments and pages, such as `util.results.provenance`, exist. Read from
the files: nothing is imported."""

import ast
import re
from functools import cache
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"early_exit": "src/early_exit"} | {
    name: name for name in ("benchmarks", "models", "runner", "tests", "trainers", "util")
}
FOLDERS = ("benchmarks", "models", "runner", "src/early_exit", "tests", "trainers", "util")
_NAME = re.compile(rf"(?<![\w./])(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+")
_FILES = {"py", "sh", "md", "json", "cpp", "h", "toml", "txt"}  # a name that ends so is a file's


def python_files():
    files = chain.from_iterable((ROOT / folder).rglob("*.py") for folder in FOLDERS)
    return [file for file in files if ROOT / "src/early_exit/models" not in file.parents]


def prose(path: Path, source: str):
    """Docstrings and comments of a file."""
    yield from docstrings(module(path))
    yield from re.findall(r"#.*", source)


def docstrings(node: ast.AST):
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        yield ast.get_docstring(node) or ""
        for each in node.body:
            yield from docstrings(each)


@cache
def module(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def members(node: ast.Module | ast.ClassDef) -> dict[str, ast.AST]:
    """Names that a module or class has, as its text says."""
    found = {}
    for each in ast.walk(node) if isinstance(node, ast.ClassDef) else node.body:
        if isinstance(each, ast.ClassDef | ast.FunctionDef):
            found[each.name] = each
        elif isinstance(each, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name): each for alias in each.names}
        elif isinstance(each, ast.Assign | ast.AnnAssign):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            for name in chain.from_iterable(map(ast.walk, targets)):
                if isinstance(name, ast.Name | ast.Attribute):
                    found[name.id if isinstance(name, ast.Name) else name.attr] = each
    return found


def exists(dotted: str) -> bool:
    package, *rest = dotted.split(".")
    place, node = ROOT / PACKAGES[package], None
    for number, name in enumerate(rest):
        if (place / name).is_dir():
            place = place / name
        elif (place / f"{name}.py").is_file():
            node, rest = module(place / f"{name}.py"), rest[number + 1 :]
            break
        else:
            node, rest = module(place / "__init__.py"), rest[number:]
            break
    else:
        return True
    for name in rest:
        if not isinstance(node, ast.Module | ast.ClassDef):
            return False
        node = members(node).get(name)
    return node is not None


def test_names_in_prose_exist():
    texts = {file: file.read_text(encoding="utf-8") for file in python_files()}
    texts = {file: text for file, text in texts.items() if _NAME.search(text)}
    told = {file: chain.from_iterable(map(_NAME.findall, prose(file, text))) for file, text in texts.items()}
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    told |= {file: _NAME.findall(file.read_text(encoding="utf-8")) for file in pages}
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file, names in told.items()
        for name in names
        if name.rpartition(".")[2] not in _FILES and not exists(name)
    ]
    assert wrong == []


def test_a_wrong_name_is_found():
    assert exists("early_exit.policy.ExitPolicy.to_dict")
    assert exists("early_exit.ExitPolicy")
    assert exists("models.t5")
    assert not exists("early_exit.policy.ExitPolicy.to_text")
    assert not exists("early_exit.screen")
    assert not exists("util.results.provenances")


def test_prose_is_docstrings_and_comments(tmp_path):
    lines = ('"""one"""', "class A:", ' """two"""', " def f(self):", '  """three"""', '  x = "no"  # four')
    text = "\n".join(lines)
    (tmp_path / "file.py").write_text(text)
    assert list(prose(tmp_path / "file.py", text)) == ["one", "two", "three", "# four"]
