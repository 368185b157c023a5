"""The imports of promedical_jax are those that docs/architecture.md allows: its two tables are read here, and the code is held to them."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "promedical_jax"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MODULES = {".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts): path for path in (ROOT / PACKAGE).rglob("*.py") if path.name != "__init__.py"}
MODULES |= {".".join(path.parent.relative_to(ROOT / PACKAGE).parts): path for path in (ROOT / PACKAGE).rglob("__init__.py")}  # "" is the package itself
# The rooms that may import jax.
DEVICES = {"likeness", "model", "cluster", "data", "reward", "rollout", "selfcheck", "doctor", "train", "plan", "scoring", "answering", "bench", "quickstart",
           "serve", "lab"}  # fmt: skip


def table(header: str) -> dict[str, set[str]]:
    """The rows of a table of the page: the names in the first column (a row each) to those in the last; 'nothing' is the empty set."""
    lines = PAGE.split(f"| {header} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    rows = [line.strip("|").split("|") for line in lines]
    return {name: set(re.findall(r"`([^`]+)`", row[-1])) for row in rows for name in re.findall(r"`([^`]+)`", row[0])}


ALLOWED, LIBRARIES = table("room"), table("library")


@cache
def imported(path: Path) -> frozenset[str]:
    return frozenset(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    """Every module that a file imports: at its top, inside functions, for types only, or by a path in a string, as the commands are."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name.removeprefix(f"{PACKAGE}.") in MODULES else str(node.module) for name in modules)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (module := node.value.removeprefix(f"{PACKAGE}.")) != node.value:
            yield from [node.value] if module in MODULES else []


def ours(path: Path) -> set[str]:
    """Of these, our own, without the package's name; the package itself (its version) is no room."""
    return {name.removeprefix(f"{PACKAGE}.") for name in imported(path) if name.startswith(f"{PACKAGE}.")}


def room(module: str) -> str:
    return max((name for name in ALLOWED if covers(name, module)), key=len, default="")


def covers(name: str, module: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def test_every_module_has_a_room_and_every_room_exists() -> None:
    assert {module for module in MODULES if module and not room(module)} == set()
    assert {name for name in ALLOWED if name not in MODULES} == set()
    assert {name for names in LIBRARIES.values() for name in names if name not in MODULES} == set()


@pytest.mark.parametrize("name", ALLOWED)
def test_a_room_imports_only_rooms_further_down_the_table(name: str) -> None:
    order = list(ALLOWED)
    assert all(order.index(room(entry)) > order.index(name) for entry in ALLOWED[name])


@pytest.mark.parametrize("module", sorted(filter(None, MODULES)))
def test_a_module_imports_what_its_room_may(module: str) -> None:
    here = room(module)
    refused = {other for other in ours(MODULES[module]) if room(other) != here and not any(covers(entry, other) for entry in ALLOWED[here])}
    assert refused == set(), f"{module}: docs/architecture.md allows the room {here} no import of {', '.join(sorted(refused))}"


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_known_to_the_files_that_the_page_names(library: str) -> None:
    assert {module for module, path in MODULES.items() if any(covers(library, name) for name in imported(path))} == LIBRARIES[library]


def test_what_a_good_answer_is_can_be_worked_on_without_jax() -> None:
    with_jax = {room(module) for module, path in MODULES.items() if any(covers("jax", name) for name in imported(path))}
    assert with_jax == DEVICES
    assert all(f"`{name}`" in PAGE.split("`jax` is imported by", 1)[1].split(".", 1)[0] for name in DEVICES)


def test_the_page_and_the_decisions_name_files_that_exist() -> None:
    for page in ("docs/architecture.md", "docs/decisions.md", "README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
        assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
    files = re.findall(r"\b(?:[a-z_0-9]+/)+[a-z_0-9]+\.(?:py|md)\b", PAGE)
    assert files and [file for file in files if not ((ROOT / file).exists() or (ROOT / PACKAGE / file).exists())] == []
