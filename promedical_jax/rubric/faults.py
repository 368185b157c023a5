"""What pydantic found wrong with a record, as one plain sentence: the field's path, what is wrong, how to mend it."""

import difflib
import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

SHOWN = 60  # characters of a faulty value that are shown

Place = tuple[int | str, ...]


def sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """The first fault as 'field rubric.criteria[2].weight: is 1.5 and should be ...; mend it', with the number of further faults.

    A fault of the record as a whole has no field. `model` is the model that was validated; it is searched for the names of known fields.
    """
    faults = error.errors(include_url=False)
    first = faults[0]
    others = [fault for fault in faults[1:] if fault["loc"] != first["loc"][: len(fault["loc"])]]  # a faulty item also makes its list "too short"
    path = tuple(part for part in first["loc"] if part != "[key]")  # pydantic's mark for the key of a dictionary
    more = f" ({len(others)} more fault{'s' if len(others) > 1 else ''} here)" if others else ""
    return (f"field {_name(path)}: " if path else "") + _what(first, path, model) + more


def _what(fault: ErrorDetails, path: Place, model: type[BaseModel]) -> str:
    context = fault.get("ctx", {})
    match fault["type"]:
        case "missing":
            return "is missing; add it"
        case "extra_forbidden":
            owner = _model_at(path[:-1], model)
            known = sorted(owner.model_fields) if owner else []
            close = difflib.get_close_matches(str(path[-1]), known, 1, cutoff=0.5)
            return f"is not a known field; did you mean {close[0]!r}?" if close else f"is not a known field; remove it, the known fields are {', '.join(known)}"
        case "enum" | "literal_error":
            return f"is {_show(fault['input'])}; use one of {context['expected']}"
        case "too_short":
            return f"holds {context['actual_length']} and needs at least {context['min_length']}; add what is missing"
        case "value_error":
            return str(context["error"])
        case _:
            wanted = fault["msg"].removeprefix("Input should be ").removeprefix("Input should have ")
            if wanted == fault["msg"]:
                return f"{fault['msg'][0].lower()}{fault['msg'][1:]}; mend it"
            return f"is {_show(fault['input'])} and should {'be' if ' be ' in fault['msg'] else 'have'} {wanted}; mend it"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _name(path: Place) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _model_at(path: Place, model: type[BaseModel]) -> type[BaseModel] | None:
    """The model of the record at `path`, or None where there is no record."""
    here: Any = model
    for part in path:
        if isinstance(part, int):
            here = next(iter(get_args(here)), None)
        elif isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[part].annotation
        else:
            return None
        here = _bare(here)
    return here if isinstance(here, type) and issubclass(here, BaseModel) else None


def _bare(annotation: Any) -> Any:
    """An annotation without Annotated and without `| None`."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _bare(next(arm for arm in get_args(annotation) if arm is not type(None)))
    return annotation
