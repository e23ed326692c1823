"""The API's description as OpenAPI 3.1, made from its routes and the table of operations."""

import re
from typing import TYPE_CHECKING, Any, get_args

from squall.gateway.auth.rights import Right

if TYPE_CHECKING:
    from squall.gateway.rpc.operations import Operation

_BODIES: dict[str, dict[str, Any]] = {
    "call": {"args": {"type": "array", "items": {}}, "kwargs": {"type": "object"}},
    "spawn": {"args": {"type": "array", "items": {}}, "kwargs": {"type": "object"}},
    "rollback": {"version": {"type": "integer", "minimum": 0}},
    "pause": {"paused": {"type": "boolean"}},
}
_QUERIES: dict[str, list[dict[str, Any]]] = {
    "/calls": [
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 10_000}},
        {"name": "app", "in": "query", "schema": {"type": "string"}},
    ],
    "/calls/{call}/result": [{"name": "timeout", "in": "query", "schema": {"type": "number", "minimum": 0, "maximum": 300}}],
}
#: What the answers of an operation are, by the last word of its path.
_KINDS = {"logs": ("text/event-stream",), "call": ("application/json", "text/event-stream"), "docs": ("text/html",)}
_ERROR = {"description": "What was wrong", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}


def document(version: str) -> dict[str, Any]:
    """The whole description."""
    from squall.gateway.api.command_bridge import COMMANDS, schemas
    from squall.gateway.api.routes import ROUTES

    paths: dict[str, dict[str, Any]] = {}
    commands, components = schemas()
    for (method, pattern), route in ROUTES.items():
        if pattern == "/commands/{command}":
            for name, schema in commands.items():
                paths[f"/api/v1/commands/{name}"] = {"post": _command(COMMANDS[name], schema)}
            continue
        last = pattern.rpartition("/")[2]
        parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in re.findall(r"\{(\w+)\}", pattern)]
        if pattern.startswith("/apps/{app}"):
            parameters.append({"name": "environment", "in": "query", "schema": {"type": "string"}})
        entry: dict[str, Any] = {
            "operationId": route.answer.__name__.strip("_"),
            "summary": (route.answer.__doc__ or "This description").strip().splitlines()[0],
            "description": _needs(route.right),
            "parameters": parameters + _QUERIES.get(pattern, []),
            "responses": {
                "200": {"description": "Done", "content": {kind: {} for kind in _KINDS.get(last, ("application/json",))}},
                **({"202": {"description": "Accepted, or not there yet"}} if last in ("spawn", "run", "result") else {}),
                "default": _ERROR,
            },
        }
        if method == "POST" and last in _BODIES:
            entry["requestBody"] = {
                "content": {
                    "application/json": {"schema": {"type": "object", "properties": _BODIES[last], "additionalProperties": last not in ("call", "spawn")}}
                }
            }
        paths.setdefault(f"/api/v1{pattern}", {})[method.lower()] = entry
    error = {"type": "object", "properties": {"code": {"type": "string"}, "message": {"type": "string"}}, "required": ["code", "message"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Squall", "version": version},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {**components, "Error": {"type": "object", "properties": {"error": error}, "required": ["error"]}},
        },
    }


def _command(row: "Operation", schema: dict[str, Any]) -> dict[str, Any]:
    doc = (row.request.__doc__ or "").strip()
    return {
        "operationId": row.name,
        "summary": doc.splitlines()[0] if doc and not doc.startswith(f"{row.name}(") else row.name,
        "description": f"Answered with {_answers(row)}. {_needs(row.right)}",
        "requestBody": {"required": bool(schema["required"]), "content": {"application/json": {"schema": schema}}},
        "responses": {"200": {"description": "Done", "content": {"application/json": {"schema": {"type": "object"}}}}, "default": _ERROR},
    }


def _answers(row: "Operation") -> str:
    return " or ".join(kind.__name__ for kind in get_args(row.answer) or (row.answer,))


def _needs(right: Right) -> str:
    if right is Right.OWNER:
        return "For the server's owner alone, at its unix socket."
    return f"Needs a token of kind {right.kind}, or one that is good for more."
