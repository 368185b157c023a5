"""Recipes: a YAML file and flags -> one checked config, and a config -> YAML. For any pydantic schema, nested groups of settings included.

A key is a leaf of the schema, named by its path: `optimizer.learning_rate`. What is not given keeps the default of the schema at hand, also inside a
group of which other keys are given. Everything wrong is an InputError of one sentence that names the key, where it was given and what is allowed.
"""

import difflib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, to_jsonable_python

from promedical_jax.errors import InputError

Config = TypeVar("Config", bound=BaseModel)

SHOWN = 60  # characters of a faulty value that are shown
BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
TYPES = {"boolean": "true or false", "object": "mapping"}


@dataclass(frozen=True)
class Key:
    """A leaf of a schema. `default` is its YAML text, None where the key must be given; `nested`: a list or mapping, which a flag writes as YAML.

    `group` is the docstring of the group of settings that it stands in.
    """

    name: str
    allowed: str
    default: str | None
    description: str
    nested: bool
    group: str


def keys(schema: type[BaseModel]) -> list[Key]:
    """All keys of a schema, in its order."""
    return list(_leaves(schema, _defaults(schema), ""))


def read_recipe(schema: type[Config], file: Path | None = None, flags: Mapping[str, str] | None = None) -> Config:
    """The config of a YAML file (none: the schema's defaults), in which `flags`, from key to text, have the last word.

    Raises InputError for a file that is no YAML mapping, a key that is unknown, given twice or missing, and a value that is not allowed.
    """
    known = {key.name: key for key in keys(schema)}
    values = _defaults(schema)
    if file is not None:
        _lay(values, _load(file), schema, str(file), "")
    for name, text in (flags or {}).items():
        if name not in known:
            inside = [f"--{key}" for key in known if key.startswith(f"{name}.")]
            hint = f"it is a group, give {' or '.join(inside)}" if inside else suggestion(name, known, "--")
            raise InputError(f"unknown flag '--{name}'; {hint}")
        *groups, leaf = name.split(".")
        place = values
        for group in groups:
            place = place[group]
        place[leaf] = _flag_value(known[name], text)
    where = _Places(file, flags or {}, known)
    where.refuse_booleans(values)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise InputError(where.sentence(error)) from None


def dump(config: BaseModel) -> str:
    """The YAML text of a config: every key, in the order of the schema. `read_recipe` reads it back to the same config."""
    values = config.model_dump(mode="json")
    readable = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10**6)
    # Some characters, such as a next line (U+0085), come back changed unless they are escaped.
    return readable if yaml.safe_load(readable) == values else yaml.safe_dump(values, sort_keys=False, width=10**6)


class Change(NamedTuple):
    """A key whose value is another in one recipe than in another, both as YAML."""

    key: str
    old: str
    new: str


def changes(file: Path, config: BaseModel) -> list[Change]:
    """The keys in which a YAML recipe differs from a config, whose schema's defaults it has where it is silent. Raises InputError for what is none."""
    defaults = _defaults(type(config))
    values = _plain(defaults)
    _lay(values, _load(file), type(config), str(file), "")
    old, new = _flat(type(config), _plain(values)), _flat(type(config), config.model_dump(mode="json"))
    return [Change(key, dump_value(old.get(key)), dump_value(value)) for key, value in new.items() if old.get(key) != value]


def _plain(value: Any) -> Any:
    """As JSON has it: what a YAML file gives back of a config."""
    return to_jsonable_python(value)


def _flat(schema: type[BaseModel], values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a schema's keys by their paths."""
    flat: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        group = _group(field.annotation)
        flat |= _flat(group, values.get(name) or {}, f"{prefix}{name}.") if group else {prefix + name: values.get(name)}
    return flat


def suggestion(name: str, known: Iterable[str], mark: str = "") -> str:
    """'did you mean ...?' for a name that is not known, by its whole path or by its last part; else where to look."""
    names = list(known)
    leaves = {candidate.rsplit(".", 1)[-1]: candidate for candidate in reversed(names)}  # of equal leaves, the first of the schema
    close = difflib.get_close_matches(name, names, 1, 0.7)
    by_leaf = difflib.get_close_matches(name.rsplit(".", 1)[-1], leaves, 1, 0.7)
    found = close[0] if close else leaves[by_leaf[0]] if by_leaf else None
    return f"did you mean '{mark}{found}'?" if found else "--help lists the known ones"


# What a schema asks for


def _group(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _defaults(schema: type[BaseModel]) -> dict[str, Any]:
    """The defaults as a fresh nested dict; required keys are left out, groups are always there."""
    values: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        group = _group(field.annotation)
        if field.is_required():
            values |= {name: _defaults(group)} if group else {}
        else:
            default = field.get_default(call_default_factory=True)
            values[name] = default.model_dump() if isinstance(default, BaseModel) else default
    return values


def _leaves(schema: type[BaseModel], defaults: dict[str, Any], prefix: str) -> Iterable[Key]:
    described = schema.model_json_schema()
    for name, field in schema.model_fields.items():
        group = _group(field.annotation)
        if group:
            yield from _leaves(group, defaults[name], f"{prefix}{name}.")
        else:
            node = described["properties"][name]
            default = dump_value(defaults[name]) if name in defaults else None
            allowed, nested = _allowed(node, described.get("$defs", {})), node.get("type") in ("array", "object")
            yield Key(prefix + name, allowed, default, field.description or "", nested, inspect.cleandoc(schema.__doc__ or ""))


def _allowed(node: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A node of a JSON schema in words: 'integer > 0, or null'."""
    if "$ref" in node:
        return _allowed(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions)
    if "anyOf" in node:
        return ", or ".join(_allowed(arm, definitions) for arm in node["anyOf"])
    if "enum" in node or "const" in node:
        return " | ".join(map(str, node.get("enum") or [node["const"]]))
    kind = node.get("type", "any value")
    if kind == "string":
        return "path" if node.get("format", "").endswith("path") else "text"
    if kind == "array":
        return f"list of {_allowed(node.get('items', {}), definitions)}"
    bounds = [f"{sign} {node[bound]}" for bound, sign in BOUNDS.items() if bound in node]
    return " ".join([TYPES.get(kind, kind), " and ".join(bounds)]).strip()


def dump_value(value: Any) -> str:
    """A value as one line of YAML."""
    plain = str(value) if isinstance(value, Path) else value
    return yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("...\n").strip()


# What was given


def _load(file: Path) -> dict[Any, Any]:
    """The mapping of a YAML file; an empty file is an empty mapping."""
    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        _refuse_duplicates(node, file, set())
        values = loader.construct_document(node) if node else {}
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; give --config the path of a YAML recipe") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give --config the path of a YAML recipe") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{file}{line}: not valid YAML ({error.problem}); mend the line") from None
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # characters that YAML forbids, impossible dates, endless nesting
        raise InputError(f"{file}: not valid YAML ({str(error).splitlines()[0]}); mend the file") from None
    if not isinstance(values, dict | None):
        raise InputError(f"{file}: holds {_show(values)} and must hold 'key: value' lines; `--print-config` prints a recipe to start from")
    return values or {}


def _refuse_duplicates(node: yaml.Node | None, file: Path, seen: set[int]) -> None:
    """On the tree of nodes, for YAML's own construction keeps the last of equal keys without a word."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, file, seen)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise InputError(f"{file}, line {line}: key '{name}' is already given on line {lines[name]}; keep one of them")
            lines[name] = line
            _refuse_duplicates(value, file, seen)


def _lay(values: dict[str, Any], given: dict[Any, Any], schema: type[BaseModel], file: str, prefix: str) -> None:
    """Lays what a file gives over the defaults, in place."""
    for name, value in given.items():
        path = f"{prefix}{name}"
        if name not in schema.model_fields:
            siblings = [prefix + sibling for sibling in schema.model_fields]
            raise InputError(f"{file}: unknown key '{path}'; {suggestion(path, [*siblings, *(prefix + key.name for key in keys(schema))])}")
        group = _group(schema.model_fields[name].annotation)
        if group is None:
            values[name] = value
        elif isinstance(value, dict):
            _lay(values[name], value, group, file, f"{path}.")
        elif value is not None:  # null: a group whose keys are all commented out
            first = next(iter(group.model_fields))
            raise InputError(f"{file}: key '{path}' is {_show(value)} and must be a group of keys; write them below it, such as '{first}: ...'")


def _flag_value(key: Key, text: str) -> Any:
    """The value of a flag: text for pydantic to read, but null where it is allowed, and YAML for lists and mappings."""
    if text == "":
        raise InputError(f"--{key.name} is empty; allowed: {key.allowed}")
    if text == "null" and key.allowed.endswith("null"):
        return None
    if not key.nested:
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InputError(f"--{key.name} is {_show(text)}, which is not valid YAML; allowed: {key.allowed}, such as [a, b]") from None


# What is wrong


@dataclass(frozen=True)
class _Places:
    """Says of a key where its value came from, and of a fault what to do there."""

    file: Path | None
    flags: Mapping[str, str]
    known: Mapping[str, Key]

    def of(self, name: str) -> str:
        if name in self.flags:
            return f"--{name}"
        inside = [f"--{flag}" for flag in self.flags if flag.startswith(f"{name}." if name else "")]
        return " ".join(inside) or (f"{self.file}: key '{name}'" if name else str(self.file or "recipe"))

    def refuse_booleans(self, values: dict[str, Any], prefix: str = "") -> None:
        """YAML reads `yes` and `on` as true, and pydantic takes true for the number 1."""
        for name, value in values.items():
            path = prefix + name
            if isinstance(value, dict) and path not in self.known:
                self.refuse_booleans(value, f"{path}.")
            elif isinstance(value, bool) and path in self.known and "true or false" not in self.known[path].allowed:
                raise InputError(f"{self.of(path)} is {_show(value)}; allowed: {self.known[path].allowed}")

    def sentence(self, error: ValidationError) -> str:
        faults = error.errors(include_url=False)
        wanting = [fault["type"] == "missing" and self._place(fault)[0] in (None, ".".join(map(str, fault["loc"]))) for fault in faults]  # keys of ours
        missing = [".".join(map(str, fault["loc"])) for fault, is_key in zip(faults, wanting, strict=True) if is_key]
        if len(missing) == len(faults):
            what = f"keys {', '.join(missing)} are" if missing[1:] else f"key {missing[0]} is"
            return f"{what} missing; give {', '.join(f'--{name}' for name in missing)}, or a recipe that has {'them' if missing[1:] else 'it'} by --config"
        first = next(fault for fault, is_key in zip(faults, wanting, strict=True) if not is_key)
        more = len(faults) - 1
        return self._fault(first) + (f" ({more} more fault{'s' if more > 1 else ''})" if more else "")

    def _place(self, fault: ErrorDetails) -> tuple[str | None, list[str]]:
        """The known key that a fault is of, None where it is of none, and the path behind it, into a list or mapping."""
        parts = [str(part) for part in fault["loc"]]
        end = next((end for end in range(len(parts), 0, -1) if ".".join(parts[:end]) in self.known), 0)
        return ".".join(parts[:end]) or None, parts[end:]

    def _fault(self, fault: ErrorDetails) -> str:
        name, behind = self._place(fault)
        if fault["type"] == "value_error" or name is None:
            text = str(fault.get("ctx", {}).get("error", fault["msg"]))
            return f"{self.of(name or '.'.join(behind))}: {text}"
        allowed = self.known[name].allowed
        if behind:
            inner = " of ".join(f"number {int(part) + 1}" if part.isdecimal() else repr(part) for part in reversed(behind))
            what = "is missing" if fault["type"] == "missing" else f"is {_show(fault['input'])}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
            return f"{self.of(name)}: {inner} {what}; --help says what it has"
        if fault["type"] == "finite_number":
            allowed = f"finite {allowed}"
        quotes = "; put it in quotes" if name not in self.flags and allowed.startswith(("path", "text")) and isinstance(fault["input"], int | float) else ""
        return f"{self.of(name)} is {_show(fault['input'])}; allowed: {allowed}{quotes}"


def _show(value: Any) -> str:
    text = {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
