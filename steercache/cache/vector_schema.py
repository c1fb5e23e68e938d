"""The JSON schema of a vector's header, as it stands in the metadata of its safetensors file."""

import json
from collections.abc import Mapping
from typing import Any

from steercache.cache.vector_files import FORMAT, HEADER
from steercache.core.vector_use import LAYER_INDEXING, OPERATIONS, PHASES, PLACES, UNITS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TARGETS: Mapping[str, str] = {
    "image": "placeholders of image patches",
    "text": "all but image, video and audio tokens, special tokens and the last token of the prompt",
    "both": "image, video, audio and text",
    "all": "every token but padding",
    "last": "the last token of the prompt",
    "video": "placeholders of patches of a video's frames",
    "audio": "placeholders of stretches of a sound",
}


def vector_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of the header: what a reader in any language can rely on."""
    number = {"type": "number"}
    layers = {"type": "array", "items": {"type": "integer", "minimum": 0}, "uniqueItems": True}
    use = {
        "type": "object",
        "description": "How the vector is meant to be used; no part of its id. What is not known is left out.",
        "properties": {
            "operation": _one_of(OPERATIONS, "h: hidden state, v: vector, u: v / |v|, c: h . u"),
            "parameters": {"type": "object", "additionalProperties": number, "description": "Of the operation."},
            "place": _one_of(PLACES, "Where the operation is applied."),
            "place_text": {"type": "string", "description": "`place` in words."},
            "layer_indexing": {"const": LAYER_INDEXING},
            "layers": layers | {"description": "Blocks that are steered, of those that the vector has."},
            "strength": number | {"description": "Recommended, in `strength_unit`."},
            "strength_unit": _one_of(UNITS, "Unit of strength."),
            "strength_range": {
                "type": "array",
                "items": number,
                "minItems": 2,
                "maxItems": 2,
                "description": "Lowest and highest strength at which `damage` was measured to be small.",
            },
            "damage": {"type": "object", "description": "How damage was measured: its value, its limit."},
            "target": _target(),
            "skip_first": {"type": "boolean", "description": "Whether the first token is left alone."},
            "phase": _one_of(PHASES, "When tokens are steered."),
            "n_generated": {
                "type": "integer",
                "minimum": 1,
                "description": "Of the generated tokens, so many from the first are steered; all where it is left out.",
            },
            "bos": {"type": "boolean", "description": "Whether prompts begin with the tokenizer's BOS token."},
            "chat": _one_of(
                {"none": "bare text", "template": "the tokenizer's chat template"}, "How prompts are made."
            ),
            "source": {"type": "object", "description": "Where the recommendation comes from: sweep, cell, split."},
        },
        "required": ["operation", "place", "place_text", "layer_indexing", "strength_unit", "target", "phase"],
    }
    fitted_on = {
        "type": "object",
        "description": "The model whose activations it was fitted on.",
        "properties": {
            "name": {"type": "string"},
            "fingerprint": {"type": "string", "description": "Digest of the weights."},
            "modality": {"enum": ["text", "image", "audio"]},
            "bos": {"type": "boolean", "description": "Whether the texts that it read begin with a special token."},
            "chat": {"enum": ["none", "template"], "description": "How these texts were made."},
        },
        "required": ["name", "fingerprint", "modality"],
    }
    return {
        "$schema": DIALECT,
        "title": "Header of a steering vector",
        "description": f"The JSON text under the key `{HEADER}` of the metadata of a safetensors file, whose one tensor "
        "`values` is float32 of shape (layers, hidden size).",
        "type": "object",
        "properties": {
            "format": {"enum": list(range(1, FORMAT + 1)), "description": "Version of this layout; 1 has no `use`."},
            "vector_id": {
                "type": "string",
                "pattern": "^[0-9a-f]{64}$",
                "description": "SHA-256 over method, concept, site, layers, provenance and values.",
            },
            "name": {"type": "string"},
            "method": {
                "type": "string",
                "description": "How it was made: mean_shift, linear_probe, sae, imported, ...",
            },
            "concept": {"type": ["string", "null"]},
            "site": {"type": "string", "description": "Where the activations were that it was fitted on."},
            "layers": layers | {"minItems": 1, "description": "Block of each row of `values`, from 0."},
            "provenance": {"type": "object", "description": "Run, query, rows, recipe, versions."},
            "diagnostics": {"type": "array", "items": {"type": "object"}, "description": "Measurements per layer."},
            "fitted_on": fitted_on,
            "use": use,
            "created_at": {"type": "string", "format": "date-time"},
        },
        "required": [
            *("format", "vector_id", "name", "method", "concept", "site", "layers", "provenance", "diagnostics"),
            "created_at",
        ],
    }


def vector_schema_text() -> str:
    """The schema as text."""
    return json.dumps(vector_schema(), indent=2, ensure_ascii=False) + "\n"


def _target() -> dict[str, Any]:
    """A target by name, or SQL over the prompt's tokens."""
    named = _one_of(TARGETS, "Tokens that are steered.")
    sql = {"type": "string", "pattern": "^sql: ", "description": "SQL that is true for these tokens of the prompt."}
    return named | {"oneOf": [*named["oneOf"], sql]}


def _one_of(meanings: Mapping[Any, str], description: str) -> dict[str, Any]:
    return {"oneOf": [{"const": k, "description": v} for k, v in meanings.items()], "description": description}
