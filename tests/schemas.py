"""The published schemas of the documents that --json prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"
SCHEMAS = {
    schema["title"]: schema for path in FOLDER.glob("loftr2flax.*.json") if (schema := json.loads(path.read_text()))
}


def validated(document: dict[str, Any]) -> dict[str, Any]:
    """The document, which its own schema accepts."""
    faults = list(Draft202012Validator(SCHEMAS[document["schema"]]).iter_errors(document))
    assert not faults, "\n".join(f"{document['schema']} {fault.json_path}: {fault.message}" for fault in faults[:10])
    return document
