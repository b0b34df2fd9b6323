"""What may be told of an input before the worker reads it with its pydantic model.

The dispatcher refuses what does not fit this schema, so it says only what the model is sure to
refuse. A model takes more than its own JSON Schema says: ``"3"`` for an int, other names of a
field, whatever a validator of its own makes of it. Where nothing is sure, nothing is said: ``{}``.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum, EnumMeta
from typing import Any

__all__ = ["input_schema"]

Schema = dict[str, Any]
Core = Mapping[str, Any]
"""A part of what pydantic has compiled a model to: ``pydantic_core.core_schema``."""

_EXACT = 2**53
"""Bounds within it are the same for a number and for the float that is made of it."""
_CHANGING = ("strip_whitespace", "to_lower", "to_upper")
"""What is done with a text before its length and pattern are looked at."""


def input_schema(model: type[Any]) -> Schema | None:
    """A JSON Schema (2020-12) that every input has which the model takes; None where that says
    nothing. What does not fit it is refused before anything runs, so it is never narrower."""
    made = _Inputs()
    told = made.told(model.__pydantic_core_schema__)
    if told in ({}, {"type": "object"}):
        return None
    return {**told, "$defs": made.definitions} if made.definitions else told


class _Inputs:
    """The schemas of the parts of one model. ``definitions``: those that are referred to."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}
        self._names: dict[str, str] = {}
        self._parts: dict[str, Core] = {}
        self._config: Core = {}
        self._told: dict[str, Callable[[Core], Schema]] = {
            "int": self._int,
            "float": self._float,
            "bool": self._bool,
            "str": self._str,
            "none": lambda _: {"type": "null"},
            "literal": lambda core: _choices(core["expected"]),
            "enum": self._enum,
            "date": lambda _: {"type": ["string", "number"], "format": "date"},
            "datetime": lambda _: {"type": ["string", "number"], "format": "date-time"},
            "time": lambda _: {"type": ["string", "number"], "format": "time"},
            "timedelta": lambda _: {"type": ["string", "number"], "format": "duration"},
            "uuid": lambda _: {"type": "string", "format": "uuid"},
            "url": lambda _: {"type": "string"},
            "list": self._list,
            "set": self._set,
            "frozenset": self._set,
            "tuple": self._tuple,
            "dict": self._dict,
            "typed-dict": lambda _: {"type": "object"},
            "model": self._model,
            "model-fields": self._fields,
            "nullable": lambda core: {"anyOf": [self.told(core["schema"]), {"type": "null"}]},
            "default": self._default,
            "union": self._union,
            "tagged-union": self._tagged_union,
            "definitions": self._definitions,
            "definition-ref": self._reference,
            "function-after": lambda core: self.told(core["schema"]),
            "json-or-python": lambda core: self.told(core["json_schema"]),
        }

    def told(self, core: Core) -> Schema:
        """Of a part; nothing where it is of no kind that is known here."""
        tell = self._told.get(core["type"])
        return {} if tell is None else tell(core)

    def _is_strict(self, core: Core) -> bool:
        return bool(core.get("strict", self._config.get("strict", False)))

    # ── numbers and texts ─────────────────────────────────────────────────────────────

    def _int(self, core: Core) -> Schema:
        bounds = _bounds(core)
        if self._is_strict(core):
            return {"type": "integer", **bounds}
        return {"type": ["integer", "string", "boolean"], "format": "whole number", **bounds}

    def _float(self, core: Core) -> Schema:
        bounds = _bounds(core)
        if self._is_strict(core):
            return {"type": "number", **bounds}
        return {"type": ["number", "string", "boolean"], "format": "number", **bounds}

    def _bool(self, core: Core) -> Schema:
        if self._is_strict(core):
            return {"type": "boolean"}
        return {"type": ["boolean", "integer", "string"], "format": "truth value"}

    def _str(self, core: Core) -> Schema:
        if core.get("coerce_numbers_to_str", self._config.get("coerce_numbers_to_str")):
            return {}
        told: Schema = {"type": "string"}
        if any(core.get(each, self._config.get(f"str_{each}")) for each in _CHANGING):
            return told
        told |= _renamed(core, {"min_length": "minLength", "max_length": "maxLength"})
        engine = core.get("regex_engine", self._config.get("regex_engine", "rust-regex"))
        if isinstance(core.get("pattern"), str) and engine == "rust-regex":
            told["pattern"] = core["pattern"]
        return told

    def _enum(self, core: Core) -> Schema:
        values = [member.value for member in core["members"]]
        told = _choices(values)
        if core.get("missing") is not None or (told and _finds_others(core["cls"], values)):
            return {}
        return told

    # ── what holds others ─────────────────────────────────────────────────────────────

    def _list(self, core: Core) -> Schema:
        lengths = _renamed(core, {"min_length": "minItems", "max_length": "maxItems"})
        return {"type": "array", "items": self.told(core.get("items_schema", _ANY)), **lengths}

    def _set(self, core: Core) -> Schema:
        # what is there twice is taken, once: so there is no maxItems, and no uniqueItems
        least = _renamed(core, {"min_length": "minItems"})
        return {"type": "array", "items": self.told(core.get("items_schema", _ANY)), **least}

    def _tuple(self, core: Core) -> Schema:
        items, variadic = core["items_schema"], core.get("variadic_item_index")
        if variadic is None:
            told: Schema = {"type": "array", "maxItems": len(items)}
            if not any(self._may_be_missing(item) for item in items):
                told["minItems"] = len(items)
            return told | ({"prefixItems": [self.told(item) for item in items]} if items else {})
        if len(items) == 1:
            return {"type": "array", "items": self.told(items[0])}
        return {"type": "array"}

    def _dict(self, core: Core) -> Schema:
        values = self.told(core.get("values_schema", _ANY))
        return {"type": "object", "additionalProperties": values}

    def _model(self, core: Core) -> Schema:
        if core.get("custom_init"):
            return {}
        outside, self._config = self._config, core.get("config", {})
        try:
            return self.told(core["schema"])
        finally:
            self._config = outside

    def _fields(self, core: Core) -> Schema:
        told: Schema = {}
        needed = []
        for name, field in core["fields"].items():
            keys = self._keys(name, field)
            if len(keys) > 1 or not all(isinstance(key, str) for key in keys):
                told |= {_first(key): {} for key in keys if _first(key) not in told}
                continue
            told[keys[0]] = self.told(field["schema"])
            if not self._may_be_missing(field["schema"]):
                needed.append(keys[0])
        schema: Schema = {"type": "object", "properties": told}
        if needed:
            schema["required"] = needed
        extra = core.get("extra_behavior", self._config.get("extra_fields_behavior"))
        return {**schema, "additionalProperties": False} if extra == "forbid" else schema

    def _keys(self, name: str, field: Core) -> list[Any]:
        """What the field is read from: keys, and paths that begin with one."""
        alias = field.get("validation_alias")
        if alias is None or self._config.get("validate_by_alias") is False:
            return [name]
        several = isinstance(alias, list) and isinstance(alias[0], list)
        keys = [*alias] if several else [alias]
        names = ("validate_by_name", "populate_by_name")
        return [*keys, name] if any(self._config.get(each) for each in names) else keys

    def _may_be_missing(self, core: Core, seen: frozenset[str] = frozenset()) -> bool:
        """Whether there is a default somewhere; it counts through all that is around it."""
        if core["type"] == "definition-ref":
            ref = core["schema_ref"]
            part = self._parts.get(ref)
            return part is None or (ref not in seen and self._may_be_missing(part, seen | {ref}))
        if core["type"] in _HOLDING:  # a default in an element is none of the whole
            return False
        if core["type"] in ("default", "definitions", "chain"):
            return True
        parts = [core[key] for key in core if key.endswith("schema")]
        if core["type"] == "union":
            parts = _cores(core["choices"])
        if core["type"] == "tagged-union":
            parts = list(core["choices"].values())
        return any(self._may_be_missing(each, seen) for each in parts)

    # ── choices, and what is said elsewhere ───────────────────────────────────────────

    def _default(self, core: Core) -> Schema:
        on_error = core.get("on_error", "raise")
        return self.told(core["schema"]) if on_error == "raise" else {}

    def _union(self, core: Core) -> Schema:
        return {"anyOf": [self.told(each) for each in _cores(core["choices"])]}

    def _tagged_union(self, core: Core) -> Schema:
        choices, told_by = core["choices"], core["discriminator"]
        if not isinstance(told_by, str) or not all(type(tag) is str for tag in choices):
            return {"anyOf": [self.told(each) for each in choices.values()]}
        mapping = {tag: self._defined(each) for tag, each in choices.items()}
        return {
            "anyOf": [{"$ref": place} for place in mapping.values()],
            "discriminator": {"propertyName": told_by, "mapping": mapping},
        }

    def _defined(self, core: Core) -> str:
        """Where a part is written down to be referred to."""
        if core["type"] == "definition-ref" and core["schema_ref"] in self._parts:
            return str(self._reference(core)["$ref"])
        name = f"part{len(self.definitions)}"
        self.definitions[name] = {}
        self.definitions[name] = self.told(core)
        return f"#/$defs/{name}"

    def _definitions(self, core: Core) -> Schema:
        self._parts |= {part["ref"]: part for part in core["definitions"]}
        return self.told(core["schema"])

    def _reference(self, core: Core) -> Schema:
        ref = core["schema_ref"]
        if ref not in self._names:
            if ref not in self._parts:
                return {}
            name = self._names[ref] = f"part{len(self.definitions)}"
            self.definitions[name] = {}
            outside, self._config = self._config, _UNSURE
            self.definitions[name] = self.told(self._parts[ref])
            self._config = outside
        return {"$ref": f"#/$defs/{self._names[ref]}"}


_ANY: Core = {"type": "any"}
_UNSURE: Core = {"coerce_numbers_to_str": True}
"""The settings of a part that is no model and has none of its own: it may be read by any."""
_HOLDING = frozenset({"list", "set", "frozenset", "tuple", "dict", "model-fields"})


def _cores(choices: Iterable[Any]) -> list[Core]:
    """The branches of a union, some of which have a label beside them."""
    return [each[0] if isinstance(each, tuple) else each for each in choices]


def _first(key: Any) -> str:
    return key if isinstance(key, str) else str(key[0])


def _finds_others(cls: Any, values: list[Any]) -> bool:
    """Whether an enum may find its members by something else than these, their values: pydantic
    calls it with what it does not know itself."""
    if not (isinstance(cls, type) and issubclass(cls, Enum)):
        return True
    if getattr(cls._missing_, "__func__", None) is not Enum.__dict__["_missing_"].__func__:
        return True
    if cls.__new__ is not Enum.__new__ or type(cls).__call__ is not EnumMeta.__call__:
        return True
    unhashable = getattr(cls, "_unhashable_values_", None)
    return bool(unhashable) or not set(values).issuperset(cls._value2member_map_)


def _choices(values: Iterable[Any]) -> Schema:
    """One of these, where all are texts: of a number there are several forms that are taken."""
    given = list(values)
    if not all(type(each) is str for each in given):
        return {}
    return {"const": given[0]} if len(given) == 1 else {"enum": given}


def _bounds(core: Core) -> Schema:
    names = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
    found = _renamed(core, names)
    return {name: bound for name, bound in found.items() if -_EXACT < bound < _EXACT}


def _renamed(core: Core, names: Mapping[str, str]) -> Schema:
    return {new: core[old] for old, new in names.items() if core.get(old) is not None}
